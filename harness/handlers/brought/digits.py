"""As the first example of many: a grey image, a small network, the digit."""

import io

import numpy as np
import torch
from PIL import Image
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler


class Digits(BaseHandler):
    @timed
    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            if isinstance(image, (bytearray, bytes)):
                image = Image.open(io.BytesIO(image)).convert("L").resize((8, 8))
            images.append(torch.as_tensor(np.array(image), dtype=torch.float64) / 255)
        return torch.stack(images).unsqueeze(1).to(self.device)

    @timed
    def postprocess(self, data):
        return data.argmax(1).tolist()
