"""The device's memory: what lanes cost, that it does not grow, and that it may run out."""

from __future__ import annotations

import time

import pytest
import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.pipeline.device import pinned
from tests.fakes import fake_context
from tests.gpu.contestants import Contestant
from tests.gpu.photos import photo

MIB = 2**20


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_memory_for_each_number_of_lanes_does_not_grow(bench, note, lanes):
    """Blocks are kept per stream, so each lane of inference costs; a batch more does not."""
    section = {
        "micro_batch_size": {"preprocess": 4, "inference": 8, "postprocess": 8},
        "parallelism": {"preprocess": 4, "inference": lanes},
        "stage_timeout": None,
    }
    bodies = [photo(number) for number in range(64)]
    ours = Contestant("ours", "photo", section, {"to_device": False})
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    ours.load(len(bodies), 0, tiny=False)
    loaded = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    reserved = []
    try:
        for _ in range(24):
            ours.answers(bodies)
            reserved.append(torch.cuda.memory_reserved())
        allocated = torch.cuda.max_memory_allocated()
    finally:
        ours.close()
    note(
        "Memory for each number of lanes of inference, ResNet-50 in eights",
        **{
            "lanes": lanes,
            "model, MiB": (loaded - before) // MIB,
            "reserved more, MiB": (reserved[-1] - loaded) // MIB,
            "most allocated, MiB": allocated // MIB,
        },
    )
    # How far lanes run ahead differs from batch to batch; a leak would show in each of them.
    assert reserved[-1] <= 1.25 * reserved[7], reserved


@pytest.fixture
def little_memory(bench):
    """limit(more_bytes): the process gets so much more memory of the device, and no more."""

    def limit(more_bytes: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(bench.device).total_memory
        fraction = (torch.cuda.memory_reserved() + more_bytes) / total
        torch.cuda.set_per_process_memory_fraction(float(fraction))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


class Hungry(MicroBatchMixin, BaseHandler):
    """Needs 16 MiB of the device for each row: for its copy in, in inference or in postprocess."""

    where = "inference"
    calls: list[int]

    def initialize(self, context):
        self.device = torch.device("cuda", 0)
        self.calls = []

    def preprocess(self, data):
        numbers = torch.tensor([float(row["body"]) for row in data])
        width = 4 * MIB if self.where == "copy in" else 1
        return numbers[:, None].repeat(1, width)

    def inference(self, batch):
        self.calls.append(len(batch))
        if self.where == "inference":
            batch = batch.repeat(1, 4 * MIB)
        return batch.amax(dim=1)

    def postprocess(self, outputs):
        if self.where == "postprocess":
            outputs = outputs[:, None].repeat(1, 4 * MIB).amax(dim=1)
        return [3 * number for number in outputs.tolist()]


@pytest.mark.parametrize("where", ["copy in", "inference", "postprocess"])
def test_memory_that_runs_out_costs_no_answer(bench, monkeypatch, note, little_memory, where):
    """Calls are halved until they fit, and the next batches begin with what fitted."""
    buffers = []
    take, give_back = pinned.PinnedBuffers.take, pinned.PinnedBuffers.give_back
    monkeypatch.setattr(
        pinned.PinnedBuffers,
        "take",
        lambda self, size: buffers.append(taken := take(self, size)) or taken,
    )
    back = []
    monkeypatch.setattr(
        pinned.PinnedBuffers, "give_back", lambda self, b: (back.append(b), give_back(self, b))
    )
    handler = Hungry()
    handler.where = where
    section = {"micro_batch_size": 16, "device": {"pinned_bytes": 2**30}, "stage_timeout": None}
    handler.initialize(fake_context(1, batch_size=32, model_yaml={"micro_batching": section}))
    little_memory(150 * MIB)
    try:
        batches, batches_s = [], []
        for _ in range(3):
            began_s = time.perf_counter()
            batches.append(handler.handle([{"body": row} for row in range(32)], fake_context(32)))
            batches_s.append(round(time.perf_counter() - began_s, 3))
        first = list(handler.calls)
        handler.calls.clear()
        last = handler.handle([{"body": row} for row in range(32)], fake_context(32))
        bench.synchronize()
    finally:
        handler.close()

    note(
        f"Memory for about nine of 16 rows, wanted in {where}",
        **{
            "calls of inference in three batches": first,
            "and then": list(handler.calls),
            "seconds of the three": batches_s,
        },
    )
    assert [[3.0 * row for row in range(32)]] * 3 == batches
    assert [3.0 * row for row in range(32)] == last
    assert max(handler.calls) <= 8
    # At most what waits for its stream's next call is not given back yet.
    taken = [buffer for buffer in buffers if buffer is not None]
    assert len(taken) - len(back) <= 4
