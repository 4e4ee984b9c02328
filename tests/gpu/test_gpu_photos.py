"""The example gpu_photos, decoding on the GPU."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.gpu_photos import (
    BODIES,
    DUE,
    GOOD,
    MOST_OFF,
    example_handler,
    off_by,
    statuses,
)

CUDA = torch.device("cuda")


@pytest.mark.parametrize("kind", GOOD)
def test_photos_look_as_pillow_decodes_them(kind):
    """Upright, in their colours and in the same place, whoever decodes them."""
    assert off_by(example_handler(CUDA), GOOD[kind]) < MOST_OFF


@pytest.mark.parametrize("size", [1, 4, 32])
def test_a_bad_photo_costs_its_own_request(size):
    """Each bad photo has its status, and its neighbours in the decoder's list have answers."""
    handler = example_handler(CUDA, micro_batch_size=size)

    assert statuses(handler, BODIES) == DUE
