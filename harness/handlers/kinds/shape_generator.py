"""Returns a generator from preprocess, and from inference a list of tensors of any length."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class SoundHandler(BaseHandler):
    def initialize(self, context):
        self.window = 2
        self.initialized = True

    def preprocess(self, data):
        for row in data:
            sound = bytes(row.get("data") or row.get("body"))
            if len(sound) % self.window:
                raise ValueError("half a sample")
            yield torch.tensor(list(sound), dtype=torch.float64)

    def inference(self, sounds):
        return [sound.reshape(-1, self.window).mean(dim=1) for sound in sounds]

    def postprocess(self, outputs):
        return [output.tolist() for output in outputs]
