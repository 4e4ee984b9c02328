"""An image in, its colour out: red, green, blue, yellow, black or white.

A request's body is the image's bytes: JPEG, PNG or WebP. An answer is
{"colour": "blue", "probability": 0.99}.
"""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

COLOURS = ("red", "green", "blue", "yellow", "black", "white")

FORMATS = ("JPEG", "PNG", "WEBP")
SIDE = 64  # pixels of the network's square input
MAX_PIXELS = 20_000_000  # a small file can claim a huge image: refused before it is decoded


class Handler(MicroBatchHandler):
    """The one class of this file. Its stages run at the same time, each on some rows of a batch.

    BaseHandler's `initialize` loads the class of model.py as `self.model`.
    """

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Decode k requests: a tensor (k, 3, 64, 64) with values from 0 to 1."""
        return torch.stack([pixels(row) for row in data])

    def inference(self, data: torch.Tensor) -> torch.Tensor:
        """Call the model: scores (k, 6)."""
        with torch.inference_mode():
            scores: torch.Tensor = self.model(data.to(self.device))
        return scores

    def postprocess(self, data: torch.Tensor) -> list[dict[str, Any]]:
        """Make k answers, in the order of the rows."""
        probabilities, best = data.softmax(dim=1).max(dim=1)
        return [
            {"colour": COLOURS[number], "probability": probability}
            for number, probability in zip(best.tolist(), probabilities.tolist(), strict=True)
        ]


def pixels(row: dict[str, Any]) -> torch.Tensor:
    """The image of one request, as the network's input (3, 64, 64)."""
    body = row.get("body", row.get("data"))
    if not isinstance(body, (bytes, bytearray)):
        # Only this request is answered 415, with this text.
        raise PredictionException("Send the bytes of an image, not JSON", 415)
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
        if image.width * image.height <= MAX_PIXELS:
            square = image.convert("RGB").resize((SIDE, SIDE))
            return torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)
    except Exception as error:  # each of Pillow's decoders raises errors of its own on bad bytes
        known = ", ".join(FORMATS)
        raise PredictionException(f"The body is not a readable image ({known})", 400) from error
    raise PredictionException(f"The image has more than {MAX_PIXELS:,} pixels", 413)
