"""Returns what some detectors do, `(predictions, [feature maps])`."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class YoloHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return torch.tensor([row["body"]["pixels"] for row in data], dtype=torch.float64)

    def inference(self, pixels):
        small = pixels.reshape(len(pixels), 2, 2).mean(dim=2)
        large = pixels.reshape(len(pixels), 1, 4)
        return pixels.sum(dim=1), [small, large]

    def postprocess(self, outputs):
        predictions, (small, large) = outputs
        return [
            {"prediction": value, "small": small[i].tolist(), "peak": large[i].max().item()}
            for i, value in enumerate(predictions.tolist())
        ]
