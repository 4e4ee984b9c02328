"""Photos in, the five most likely ImageNet labels out.

An ordinary TorchServe handler: only its base class says that it is micro-batched. It must stay
the one class of this file, which is how TorchServe finds it.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from ts.utils.util import PredictionException, map_class_to_label

from micro_batch_handler import MicroBatchHandler

SIDE = 224
MEAN, STD = 127 / 255, 128 / 255  # the network was trained on (pixel - 127) / 128
KEPT = 224 / 256  # the network was trained to look at the middle of the photo
TOP = 5

# Names of Pillow's decoders. Pillow has many more, some old, one of which runs Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MIN_SIDE = 16
MAX_PIXELS = 50_000_000  # about 150 MB once decoded, in each preprocess lane
# Pillow's own guard, for sizes that it only finds while decoding.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class ImageClassifierHandler(MicroBatchHandler):
    """Classifies photos with EfficientNet-Lite0; `inference` is BaseHandler's."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """K requests become a float tensor (k, 3, 224, 224)."""
        return torch.stack([to_tensor(decode(body_of(row))) for row in data])

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        """The network's outputs (k, 1000) become k answers: label -> probability, best first."""
        best = data.softmax(dim=1).topk(TOP, dim=1)
        answers: list[dict[str, float]] = map_class_to_label(
            best.values.tolist(), self.mapping, best.indices.tolist()
        )
        return answers

    def example_row(self) -> dict[str, Any]:
        """A grey photo, with which a model is compiled when it has loaded."""
        photo = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), "grey").save(photo, "PNG")
        return {"body": photo.getvalue()}


def body_of(row: dict[str, Any]) -> bytes:
    """The photo's bytes: the request's body or its field `data`, raw or as base64 text."""
    body = row.get("data") or row.get("body")
    if not body:
        raise PredictionException("The request has no body: send the bytes of an image", 400)
    if isinstance(body, str):
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise PredictionException("The request's text is not base64", 400) from None
    if not isinstance(body, (bytes, bytearray)):
        raise PredictionException("Send an image, as bytes or as base64 text, not JSON", 415)
    return bytes(body)


def decode(body: bytes) -> Image.Image:
    """The photo, upright and in RGB; its size is checked before it is decoded."""
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
        check_size(*image.size)
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))
    except PredictionException:
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise PredictionException(f"The body is not a readable image ({known})", 415) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large() from None
    except Exception as broken:  # each of Pillow's decoders raises errors of its own on bad bytes
        raise PredictionException(
            f"The image is corrupt or cut short ({type(broken).__name__})", 400
        ) from broken


def check_size(width: int, height: int) -> None:
    """Refuse what has nothing to see and what would fill the memory."""
    if min(width, height) < MIN_SIDE:
        raise PredictionException(
            f"The image is {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed", 422
        )
    if width * height > MAX_PIXELS:
        raise too_large()


def too_large() -> PredictionException:
    """One wording, whoever finds it: our check or Pillow's."""
    return PredictionException(f"The image has more than {MAX_PIXELS:,} pixels", 413)


def to_rgb(image: Image.Image) -> Image.Image:
    """Keep what a viewer would show, where Pillow's own conversion does not."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow cuts off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # Pillow would show the colours that lie hidden below transparent parts.
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The middle of the photo as the network's input (3, 224, 224).

    The photo is squeezed into a square, as "resize to 256x256, then keep the middle 224x224"
    does; one step gives the same and reads fewer pixels.
    """
    margin = (1 - KEPT) / 2
    width, height = image.size
    box = (width * margin, height * margin, width * (1 - margin), height * (1 - margin))
    square = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(square, dtype=np.float32) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)
