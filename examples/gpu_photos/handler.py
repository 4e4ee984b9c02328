"""Photos in, labels out, with JPEGs decoded on the GPU by torchvision's nvJPEG.

The checks, the answers and the way on a CPU are those of the example image_classifier, whose
handler lies beside this one in the archive. This must stay the one class of this file.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from image_classifier_handler import (
    FORMATS,
    KEPT,
    MEAN,
    SIDE,
    STD,
    ImageClassifierHandler,
    body_of,
    check_size,
    decode,
)
from PIL import Image
from torch.nn.functional import interpolate

ORIENTATION = 0x0112  # of EXIF, 1 to 8: how the camera was held


class GpuPhotosHandler(ImageClassifierHandler):
    """Classifies photos with EfficientNet-Lite0; pixels are decoded where the network runs."""

    @property
    def decodes_on_device(self) -> bool:
        """Whether torchvision decodes; otherwise Pillow does, on the CPU."""
        return self.device.type == "cuda"

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """K requests become a float tensor (k, 3, 224, 224) on the device.

        torchvision decodes a list in one call, and fails the whole list for one broken file. The
        call is then repeated on halves of the micro-batch, by micro_batch_handler, until the broken
        one is alone.
        """
        if not self.decodes_on_device:
            return super().preprocess(data)
        bodies = [body_of(row) for row in data]
        turns = [orientation_of(body) for body in bodies]
        jpegs = [body for body, turn in zip(bodies, turns, strict=True) if turn]
        decoded = iter(self.decode_jpegs(jpegs))
        images = [
            upright(next(decoded), turn) if turn else self.decode_on_cpu(body)
            for body, turn in zip(bodies, turns, strict=True)
        ]
        return torch.cat([to_input(image) for image in images])

    def decode_jpegs(self, bodies: list[bytes]) -> list[torch.Tensor]:
        """JPEGs become uint8 tensors (3, height, width) on the device."""
        # Imported late: a server without a GPU needs no torchvision.
        from torchvision.io import ImageReadMode, decode_jpeg

        if not bodies:
            return []
        if self.device.type == "cuda":
            # It writes into free memory of this stream, in a stream of its own that does not wait
            # for kernels which still read there: https://github.com/pytorch/vision/pull/9606
            torch.cuda.current_stream(self.device).synchronize()
        read = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in bodies]
        try:
            decoded: list[torch.Tensor] = decode_jpeg(
                read, mode=ImageReadMode.RGB, device=self.device
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if len(bodies) > 1:
                raise
            # Pillow reads some JPEGs that nvJPEG does not, and says what is wrong with the others.
            return [self.decode_on_cpu(bodies[0])]
        return decoded

    def decode_on_cpu(self, body: bytes) -> torch.Tensor:
        """Any image becomes a uint8 tensor (3, height, width) on the device."""
        pixels = torch.from_numpy(np.array(decode(body)))
        return pixels.to(self.device).permute(2, 0, 1)


def orientation_of(body: bytes) -> int:
    """How a JPEG that the device can decode is to be turned, 1 to 8; 0 for any other image.

    Its size is checked here, in the header, before anything is decoded.
    """
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Exception:  # `decode` says what is wrong
        return 0
    check_size(*image.size)
    if image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return 0
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def upright(image: torch.Tensor, turn: int) -> torch.Tensor:
    """The image (3, height, width) as the camera saw it; `turn` is EXIF's orientation."""
    if turn >= 5:  # noqa: PLR2004 - columns and rows are swapped
        image = image.transpose(-2, -1)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}.get(turn, ())
    return image.flip(flips)


def to_input(image: torch.Tensor) -> torch.Tensor:
    """The middle of a uint8 image (3, height, width) as the network's input (1, 3, 224, 224)."""
    height, width = image.shape[-2:]
    top, left = round(height * (1 - KEPT) / 2), round(width * (1 - KEPT) / 2)
    middle = image[None, :, top : height - top, left : width - left].float()
    square = interpolate(middle, (SIDE, SIDE), mode="bicubic", antialias=True)
    return (square.clamp(0, 255) / 255 - MEAN) / STD
