"""The stages of coded*.py: a JPEG that carries a number (harness/images.py) gives it back."""

import io
import threading

import numpy as np
import torch
from PIL import Image

NUMBERS = 1 << 24
RAISING, HANGING = 1, 2


class CodedStages:
    """One class for all handlers that are compared; `handler.hang_s` null hangs for ever."""

    def initialize(self, context):
        self.hang_s = context.model_yaml_config["handler"]["hang_s"]
        self.model = torch.nn.AvgPool2d(8)
        self.powers = 1 << torch.arange(32)
        self.initialized = True

    def preprocess(self, data):
        return torch.stack([self._pixels(row.get("body") or row.get("data")) for row in data])

    def inference(self, batch):
        values = self._values(batch)
        if (values // NUMBERS == RAISING).any():
            raise ValueError("this model does not like one of these images")
        return values % NUMBERS

    def postprocess(self, outputs):
        return [{"number": number} for number in outputs.tolist()]

    def _pixels(self, body):
        image = Image.open(io.BytesIO(body))
        pixels = torch.from_numpy(np.array(image, dtype=np.float32))[None]
        if self._values(pixels[None]).item() // NUMBERS == HANGING:
            threading.Event().wait(self.hang_s)
        return pixels

    def _values(self, batch):
        with torch.inference_mode():
            return (self.model(batch).flatten(1) > 127).to(torch.int64) @ self.powers
