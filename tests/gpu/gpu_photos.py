"""The example gpu_photos with a small network, and photos of all kinds, good and bad."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.examples import example_module
from tests.fakes import fake_context
from tests.gpu.photos import photo

__all__ = [
    "BODIES",
    "DUE",
    "GOOD",
    "MOST_OFF",
    "example_handler",
    "handler_file",
    "off_by",
    "statuses",
]

ORIENTATION = 0x0112
EDGE = 16
OK, BROKEN, TOO_LARGE, UNKNOWN, TOO_SMALL = 200, 400, 413, 415, 422


def handler_file() -> ModuleType:
    """The handler's file, beside which the archive has image_classifier's."""
    sys.modules["image_classifier_handler"] = example_module("image_classifier", "handler")
    try:
        return example_module("gpu_photos", "handler")
    finally:
        del sys.modules["image_classifier_handler"]


def example_handler(device: torch.device, **section: Any) -> Any:
    """The example's handler, which decodes by torchvision on any device, and averages squares.

    Args:
        device: where.
        section: `micro_batching:` of its model-config.yaml.
    """

    class Small(handler_file().GpuPhotosHandler):  # type: ignore[misc]
        decodes_on_device = True

        def initialize(self, context: Any) -> None:
            self.device = device
            self.mapping = {str(at): f"label {at}" for at in range(3 * EDGE**2)}
            squares = torch.nn.AdaptiveAvgPool2d(EDGE)
            self.model = torch.nn.Sequential(squares, torch.nn.Flatten()).to(device)
            self.initialized = True

    handler = Small()
    yaml = {"batchSize": 32, "micro_batching": section}
    handler.initialize(fake_context(0, batch_size=32, model_yaml=yaml))
    return handler


def statuses(handler: Any, bodies: list[bytes]) -> list[int]:
    """The status of each request of one batch."""
    context = fake_context(len(bodies), batch_size=32)
    handler.handle([{"body": body} for body in bodies], context)
    return [context.get_response_status(at)[0] for at in range(len(bodies))]


def off_by(handler: Any, body: bytes) -> float:
    """How far the network's input, -1 to 1, is from what Pillow makes of the photo, on average."""
    file = handler_file()
    found = handler.preprocess([{"body": body}])[0].cpu()
    by_pillow = file.ImageClassifierHandler.preprocess(handler, [{"body": body}])[0]
    return float((found - by_pillow).abs().mean())


def _image(number: int) -> Image.Image:
    return Image.open(io.BytesIO(photo(number)))


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _turned(turn: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return _saved(_image(turn), "JPEG", quality=95, exif=exif)


def _deep() -> bytes:
    grey = np.asarray(_image(20).convert("L")).astype(np.uint16) << 8
    return _saved(Image.fromarray(grey), "PNG")


def _huge() -> bytes:
    body = bytearray(photo(0))
    at = body.index(b"\xff\xc0") + 5  # height and width, in the header of the frame
    body[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(body)


GOOD = {
    "colours": photo(10),
    "grey": _saved(_image(11).convert("L"), "JPEG", quality=95),
    "progressive": _saved(_image(12), "JPEG", quality=95, progressive=True),
    "CMYK": _saved(_image(13).convert("CMYK"), "JPEG", quality=95),
    "PNG": _saved(_image(14), "PNG"),
    "16-bit PNG": _deep(),
    "WEBP": _saved(_image(15), "WEBP", lossless=True),
    **{f"turned {turn}": _turned(turn) for turn in range(1, 9)},
}

BAD = {
    "cut short": (photo(21)[:700], BROKEN),
    "half": (photo(22)[: len(photo(22)) // 2], BROKEN),
    "no image": (b"no image", UNKNOWN),
    "huge": (_huge(), TOO_LARGE),
    "tiny": (_saved(Image.new("RGB", (8, 8)), "JPEG"), TOO_SMALL),
    "empty": (b"", BROKEN),
}
"""Each with its status."""

BODIES = [*GOOD.values(), *(body for body, _ in BAD.values())]
DUE = [*([OK] * len(GOOD)), *(status for _, status in BAD.values())]
"""All of them as one batch, and the status of each."""

MOST_OFF = 0.05
"""Resizing differs a little from Pillow's: here the margins are whole pixels."""
