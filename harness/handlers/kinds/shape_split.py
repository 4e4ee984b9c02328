"""Joins the tokens of all requests and splits the scores again: a tuple with one for each."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class TokenScoreHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        rows = [torch.tensor(row["body"]["tokens"], dtype=torch.float64) for row in data]
        return torch.cat(rows), [len(row) for row in rows]

    def inference(self, batch):
        tokens, lengths = batch
        return torch.split(tokens * 2 + 1, lengths)

    def postprocess(self, outputs):
        return [scores.tolist() for scores in outputs]
