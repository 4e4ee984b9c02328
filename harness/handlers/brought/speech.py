"""As speech to text: bytes of sound whose length differs from request to request."""

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class Speech(BaseHandler):
    def initialize(self, context):
        self.device = "cpu"
        self.initialized = True

    def preprocess(self, data):
        sounds = [row.get("data") or row.get("body") for row in data]
        return [torch.from_numpy(np.frombuffer(sound, dtype=np.int16).copy()) for sound in sounds]

    def inference(self, waveforms):
        return [waveform.double().abs().reshape(-1, 4).mean(dim=1) for waveform in waveforms]

    def postprocess(self, features):
        return ["".join(chr(97 + int(value) % 26) for value in row) for row in features]
