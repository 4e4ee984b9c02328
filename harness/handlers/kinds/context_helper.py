"""Gives the context to a helper object, which reads the request processors themselves."""

from tenants import Tenants
from ts.torch_handler.base_handler import BaseHandler


class PriceHandler(BaseHandler):
    def initialize(self, context):
        self.tenants = Tenants(context)
        self.initialized = True

    def preprocess(self, data):
        prices = []
        for index, row in enumerate(data):
            price = float(row["body"]["price"])
            prices.append(price - self.tenants.discount(index))
        return prices

    def inference(self, prices):
        return [1.19 * price for price in prices]

    def postprocess(self, prices):
        return [
            {"tenant": self.tenants.of(index), "price": round(price, 2)}
            for index, price in enumerate(prices)
        ]
