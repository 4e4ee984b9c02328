"""Copies between host and device: pinned, asynchronous, and exact."""

from __future__ import annotations

import pytest
import torch

from micro_batch_handler.pipeline.device.pinned import PinnedBuffers
from micro_batch_handler.pipeline.device.transfers import download, upload
from tests.gpu.delays import NO_DELAYS, late_answers, right_answers


def _in_inference_mode():
    with torch.inference_mode():
        return torch.randn(3, 5)


KINDS = {
    "floats": lambda: torch.randn(3, 5),
    "halves": lambda: torch.randn(3, 5).half(),
    "bfloat16": lambda: torch.randn(3, 5).bfloat16(),
    "numbers": lambda: torch.arange(7),
    "flags": lambda: torch.tensor([True, False, True]),
    "complex": lambda: torch.randn(4, dtype=torch.complex64),
    "conjugate": lambda: torch.randn(4, dtype=torch.complex64).conj(),
    "channels last": lambda: torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(3, 5).t(),
    "expanded": lambda: torch.randn(3, 1).expand(3, 5),
    "columns of more": lambda: torch.randn(3, 10)[:, :5],
    "every other row": lambda: torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)[::2],
    "one number": lambda: torch.tensor(3.5),
    "none": lambda: torch.empty(0, 5),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "made in inference mode": _in_inference_mode,
}


@pytest.mark.parametrize("limit_bytes", [0, 2**20])
def test_copies_are_exact_whatever_the_tensor(bench, limit_bytes):
    """Up and down again, each tensor has its values, type and the strides that `.to` gives."""
    device = bench.accelerator
    buffers = PinnedBuffers(device, limit_bytes)
    payload = {name: make() for name, make in KINDS.items()}

    with device.using(device.stream()):
        there = upload(device, buffers.take, payload).payload
        back = download(device, buffers.take, there)
        bench.synchronize()
        here = back.own(device)

    for name, tensor in payload.items():
        assert there[name].device == bench.device, name
        assert here[name].device.type == "cpu", name
        assert here[name].dtype == tensor.dtype, name
        if tensor.layout == torch.strided:
            assert there[name].stride() == tensor.to(bench.device).stride(), name
            assert torch.equal(here[name], tensor), name
        else:
            assert torch.equal(here[name].to_dense(), tensor.to_dense()), name


def test_buffers_are_pinned_and_used_again(bench, monkeypatch, note):
    """Each buffer is page-locked, and after the first batches no more of them are made."""
    made = []
    pinned_buffer = bench.accelerator.pinned_buffer

    def counted(size_bytes):
        made.append(pinned_buffer(size_bytes))
        return made[-1]

    monkeypatch.setattr(bench.accelerator, "pinned_buffer", counted)
    section = {"device": {"copy_out": True, "pinned_bytes": 2**26}}
    answers = late_answers(bench, monkeypatch, section, NO_DELAYS, batches=20)

    note(
        "Pinned buffers",
        buffers=len(made),
        megabytes=sum(buffer.nbytes for buffer in made) / 1e6,
        copies=20 * 16,
    )
    assert answers == right_answers(bench, batches=20)
    assert made
    assert all(buffer.is_pinned() for buffer in made)
    assert bench.accelerator.place(torch.ones(3), made[0], 256).is_pinned()
    assert sum(buffer.nbytes for buffer in made) <= 2**26
    assert len(made) < 20 * 16 / 4


@pytest.mark.parametrize("way", ["up", "down"])
def test_copies_through_pinned_memory_do_not_wait(bench, way):
    """The call returns while the device still sleeps before the copy."""
    device = bench.accelerator
    stream = device.stream()
    host, there = torch.ones(2**20), torch.zeros(2**20, device=bench.device)
    place = device.place(host, device.pinned_buffer(host.nbytes), 0)
    bench.synchronize()

    with device.using(stream):
        bench.sleep(500)
        slept = bench.mark()
        if way == "up":
            device.fill(place, host)
            there = device.upload(place, wait=False)
        else:
            device.download(there, place)
        returned_before = not slept.query()
    bench.synchronize()

    assert returned_before
    assert torch.equal(there.cpu(), place)
