"""Photos as clients send them: JPEGs with structure, each with content of its own."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["photo"]

WIDTH, HEIGHT = 500, 375
"""ImageNet's usual size."""


def photo(number: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of coloured noise and waves, about as large as a photo of this size.

    Tint and contrast are its own, so that a network with random weights tells photos apart too.
    """
    random = np.random.default_rng(number)
    rough = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(rough).resize((width, height)), dtype=np.float32)
    image = random.uniform(0, 255, 3) + random.uniform(0.2, 1) * (image - image.mean())
    waves = 20 * np.sin(np.arange(width) * random.uniform(0.02, 0.5))
    pixels = np.clip(image + waves[None, :, None], 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
