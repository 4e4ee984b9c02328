"""Streams from postprocess, with the context of `initialize`, and may fail after a first part."""

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class GeneratorHandler(BaseHandler):
    def initialize(self, context):
        self._context = context
        self.initialized = True

    def preprocess(self, data):
        return [row["body"]["numbers"] for row in data]

    def inference(self, rows):
        return rows

    def _send(self, parts):
        send_intermediate_predict_response(
            parts,
            self._context.request_ids,
            "Intermediate Prediction success",
            200,
            self._context,
        )

    def postprocess(self, rows):
        self._send([f"{len(row)} numbers;" for row in rows])
        self._send([f"{row[0] / row[1]:.3f};" for row in rows])
        return [f"{sum(row)}." for row in rows]
