"""Returns a list of outputs from inference, `[logits, hidden]`, as onnxruntime does."""

import numpy as np
from ts.torch_handler.base_handler import BaseHandler


class OnnxHandler(BaseHandler):
    def initialize(self, context):
        self.weights = np.array([[1.0, -1.0], [0.5, 2.0], [-1.5, 0.25]])
        self.initialized = True

    def preprocess(self, data):
        rows = [row.get("data") or row.get("body") for row in data]
        return np.array([row["features"] for row in rows], dtype=np.float64)

    def inference(self, features):
        hidden = features @ self.weights
        logits = hidden.cumsum(axis=1)
        return [logits, hidden]

    def postprocess(self, outputs):
        logits, hidden = outputs
        return [
            {"label": int(row.argmax()), "hidden": hidden[i].tolist()}
            for i, row in enumerate(logits)
        ]
