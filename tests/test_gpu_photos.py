"""The example gpu_photos on the CPU: torchvision decodes there too, where it can be imported."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.gpu.gpu_photos import (
    BODIES,
    DUE,
    GOOD,
    MOST_OFF,
    example_handler,
    handler_file,
    off_by,
    statuses,
)

CPU = torch.device("cpu")


def _lack() -> str:
    try:
        import torchvision.io  # noqa: F401
    except (ImportError, RuntimeError) as error:  # beside another PyTorch its operators are missing
        return f"torchvision cannot be imported beside torch {torch.__version__}: {error}"
    return ""


pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
decodes = pytest.mark.skipif(bool(_lack()), reason=_lack())


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_turned_as_their_camera_was_held(turn):
    """Each of EXIF's orientations gives the pixels that Pillow gives."""
    body = GOOD[f"turned {turn}"]
    image = Image.open(io.BytesIO(body))
    file = handler_file()

    found = file.upright(torch.from_numpy(np.array(image)).permute(2, 0, 1), turn)

    assert file.orientation_of(body) == turn
    expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_the_device_decodes_only_what_it_can():
    """JPEGs in colour and grey; the CPU decodes others, and says what is wrong with bad ones."""
    file = handler_file()
    mine = {kind for kind, body in GOOD.items() if file.orientation_of(body)}

    assert mine == {"colours", "grey", "progressive", *(f"turned {turn}" for turn in range(1, 9))}
    assert not file.orientation_of(b"no image")


@decodes
@pytest.mark.parametrize("kind", GOOD)
def test_photos_look_as_pillow_decodes_them(kind):
    """Upright, in their colours and in the same place, whoever decodes them."""
    assert off_by(example_handler(CPU), GOOD[kind]) < MOST_OFF


@decodes
@pytest.mark.parametrize("size", [1, 4, 32])
def test_a_bad_photo_costs_its_own_request(size):
    """Each bad photo has its status, and its neighbours in the decoder's list have answers."""
    handler = example_handler(CPU, micro_batch_size=size)

    assert statuses(handler, BODIES) == DUE
