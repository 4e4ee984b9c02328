"""Remembers the size of each image, to scale boxes back from what the network saw."""

import io

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler


class DetectionHandler(BaseHandler):
    input_size = 8

    def initialize(self, context):
        self.device = torch.device("cpu")
        self.original_sizes = []
        self.initialized = True

    def preprocess(self, data):
        images = []
        self.original_sizes = []
        for row in data:
            image = row.get("data") or row.get("body")
            image = Image.open(io.BytesIO(image)).convert("L")
            self.original_sizes.append(image.size)
            image = image.resize((self.input_size, self.input_size))
            images.append(torch.as_tensor(np.array(image), dtype=torch.float64) / 255)
        return torch.stack(images).to(self.device)

    def inference(self, images):
        columns, rows = images.mean(dim=1), images.mean(dim=2)
        return torch.stack(
            [columns.argmin(1), rows.argmin(1), columns.argmax(1), rows.argmax(1)], 1
        )

    def postprocess(self, boxes):
        results = []
        for index, box in enumerate(boxes.tolist()):
            width, height = self.original_sizes[index]
            scales = [width, height, width, height]
            results.append([scales[k] * box[k] / self.input_size for k in range(4)])
        return results
