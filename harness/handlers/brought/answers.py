"""As question answering: JSON with two texts, and an answer cut out of one of them."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class Answers(BaseHandler):
    def initialize(self, context):
        self.manifest = context.manifest
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, requests):
        return [(row["body"]["question"], row["body"]["context"]) for row in requests]

    def inference(self, pairs):
        spans = []
        for question, text in pairs:
            start = text.find(question[-1])
            spans.append((text, start, text.find(" ", start)))
        return spans

    def postprocess(self, spans):
        return [text[start:stop] for text, start, stop in spans]
