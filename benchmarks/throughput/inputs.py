"""What clients send: a few different bodies for each workload, the same in every run."""

from __future__ import annotations

import io
import json
import random
from importlib import resources

from PIL import Image

from benchmarks.throughput.stages.vector import SIZE

__all__ = ["photos", "sentences", "vectors"]

QUALITY = 90
"""Of the JPEGs: 68 kB each."""

TEXT = """
the a one each weather river city market model engine server quiet busy bright old green answers
carries meets follows waits opens for with under before and while because today again slowly people
lines water letters music winter harbour question table window
"""


def vectors() -> list[bytes]:
    """JSON lists of 384 numbers, 7 kB each."""
    numbers = random.Random(0)  # noqa: S311 - the same in every run
    return [
        json.dumps([round(numbers.gauss(0, 1), 8) for _ in range(SIZE)]).encode() for _ in range(8)
    ]


def photos() -> list[bytes]:
    """JPEGs of 512 x 512 pixels: one photo of scikit-image's (NASA, public domain), turned."""
    png = resources.files("skimage").joinpath("data", "astronaut.png").read_bytes()
    photo = Image.open(io.BytesIO(png)).convert("RGB")
    turns = (None, *(Image.Transpose(number) for number in range(5)))
    return [_jpeg(photo if turn is None else photo.transpose(turn)) for turn in turns]


def sentences() -> list[bytes]:
    """JSON objects with 5 to 20 words of text."""
    words = TEXT.split()
    drawn = random.Random(0)  # noqa: S311 - the same in every run
    return [
        json.dumps({"text": " ".join(drawn.choices(words, k=drawn.randint(5, 20)))}).encode()
        for _ in range(64)
    ]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
