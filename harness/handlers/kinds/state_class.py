"""Keeps the contexts of questions in an attribute of the class, and cuts answers out of them."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class SpanHandler(BaseHandler):
    passages = ()

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, requests):
        bodies = [request.get("data") or request.get("body") for request in requests]
        SpanHandler.passages = [body["context"] for body in bodies]
        return torch.tensor([[body["start"], body["start"] + body["length"]] for body in bodies])

    def inference(self, spans):
        return spans.clamp(min=0)

    def postprocess(self, spans):
        return [
            SpanHandler.passages[i][start:stop] for i, (start, stop) in enumerate(spans.tolist())
        ]
