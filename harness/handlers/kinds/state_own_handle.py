"""Has a `handle` of its own, which keeps the users of the batch and calls the three stages."""

import logging

import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class RankingHandler(BaseHandler):
    def initialize(self, context):
        self._context = context
        self.users = []
        self.initialized = True

    def preprocess(self, data):
        return torch.tensor([row["body"]["scores"] for row in data], dtype=torch.float64)

    def inference(self, scores):
        return scores.argsort(dim=1, descending=True)

    def postprocess(self, ranks):
        return [{"user": self.users[i], "ranks": row} for i, row in enumerate(ranks.tolist())]

    def handle(self, data, context):
        self.context = context
        self.users = [context.get_request_header(i, "x-user") for i in range(len(data))]
        logger.debug("a batch of %d", len(data))
        model_input = self.preprocess(data)
        model_output = self.inference(model_input)
        return self.postprocess(model_output)
