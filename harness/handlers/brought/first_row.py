"""As TorchServe's text classifier: it takes the first row and forgets the others."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class FirstRow(BaseHandler):
    def initialize(self, context):
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, data):
        line = data[0]
        text = (line.get("data") or line.get("body")).decode("utf-8")
        return torch.tensor([ord(letter) for letter in text]), text

    def inference(self, data):
        codes, _ = data
        return codes.double().mean().reshape(1)

    def postprocess(self, data):
        return [{"mean": data.item()}]
