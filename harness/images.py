"""Small JPEGs that each carry a number, so that an answer shows which request it belongs to."""

from __future__ import annotations

import enum
import io

import numpy as np
from PIL import Image

__all__ = ["NUMBERS", "Kind", "jpeg"]

COLUMNS, ROWS, BLOCK = 8, 4, 8
"""One bit is a block of so many pixels, black or white: JPEG cannot blur it away."""

NUMBERS = 1 << 24
"""How many there are; the bits above hold the kind (see handlers/coded_stages.py)."""


class Kind(enum.IntEnum):
    """What a handler of coded_stages.py does with an image."""

    GOOD = 0
    RAISING = 1
    """Inference raises for it."""
    HANGING = 2
    """Preprocess hangs on it."""
    CORRUPT = 3
    """No image any more: half of one, or one whose head is lost."""


def jpeg(number: int, kind: Kind = Kind.GOOD) -> bytes:
    """An image that carries the number."""
    value = number % NUMBERS + NUMBERS * (kind % Kind.CORRUPT)
    bits = (value >> np.arange(COLUMNS * ROWS)) & 1
    pixels = (255 * bits).astype(np.uint8).reshape(ROWS, COLUMNS)
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(BLOCK, 0).repeat(BLOCK, 1)).save(file, "JPEG", quality=90)
    data = file.getvalue()
    if kind is Kind.CORRUPT:
        half = len(data) // 2
        return data[:half] if number % 2 else bytes(half) + data[half:]
    return data
