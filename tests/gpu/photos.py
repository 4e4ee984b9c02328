"""Photos as clients send them: with structure, each with content of its own."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["photo", "pixels"]

WIDTH, HEIGHT = 500, 375
"""ImageNet's usual size."""

EDGE = 224
"""What its networks take."""


def photo(number: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of coloured noise and waves, about as large as a photo of this size.

    Tint and contrast are its own, so that a network with random weights tells photos apart too.
    """
    random = np.random.default_rng(number)
    rough = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(rough).resize((width, height)), dtype=np.float32)
    image = random.uniform(0, 255, 3) + random.uniform(0.2, 1) * (image - image.mean())
    waves = 20 * np.sin(np.arange(width) * random.uniform(0.02, 0.5))
    image = np.clip(image + waves[None, :, None], 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def pixels(number: int, edge: int = EDGE) -> bytes:
    """The photo as a client that has decoded it sends it: three planes of bytes."""
    with Image.open(io.BytesIO(photo(number))) as image:
        return np.asarray(image.resize((edge, edge))).transpose(2, 0, 1).tobytes()
