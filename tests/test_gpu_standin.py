"""The tests of tests/gpu that need no GPU, on its stand-in; and what a copy does that fails."""

from __future__ import annotations

import threading
from collections import UserDict
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.pinned import PinnedBuffers
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.thread_state import ThreadState
from micro_batch_handler.pipeline.device.transfers import upload
from tests.gpu.benches import HostBench
from tests.gpu.delays import CASES, NO_DELAYS, forget, late_answers, right_answers
from tests.gpu.overlap import all_at_once
from tests.gpu.timeline import together_ms

LATE_MS = 4.0


@pytest.fixture
def bench():
    """The stand-in; its threads end with the test."""
    yield (bench := HostBench())
    bench.synchronize()
    bench.close()


@pytest.mark.parametrize("late", [0.0, LATE_MS])
@pytest.mark.parametrize("case", CASES)
def test_answers_are_right_whatever_is_late(bench, monkeypatch, case, late):
    """On a device whose work is done later than it is asked for, every answer is right."""
    delays_ms = dict.fromkeys(NO_DELAYS, late)

    answers = late_answers(bench, monkeypatch, CASES[case], delays_ms)

    assert answers == right_answers(bench)


@pytest.mark.parametrize(
    ("broken", "late", "section"),
    [
        ("no stream waits", "preprocess", {}),
        ("no stream waits", "inference", {}),
        ("no thread waits", "inference", {"device": {"copy_out": True}}),
        ("nothing is kept", "inference", {}),
    ],
)
def test_a_missing_rule_gives_wrong_answers(bench, monkeypatch, broken, late, section):
    """Each rule of streams.py, switched off, is seen: these tests have teeth, on a GPU too."""
    if broken == "no stream waits":
        bench.make_deaf()
    elif broken == "no thread waits":
        bench.make_hasty()
    else:
        forget(monkeypatch)

    answers = late_answers(bench, monkeypatch, section, {**NO_DELAYS, late: 5 * LATE_MS})

    assert answers != right_answers(bench)


def test_copies_and_compute_take_place_at_once(bench, monkeypatch):
    """What the test of overlap arranges happens, and its timeline shows it."""
    spans = all_at_once(bench, monkeypatch, columns=8, compute_ms=150)

    def of(kind, number):
        return [span for span in spans if (span.kind, span.number) == (kind, number)]

    assert {
        (kind, number) for kind in ("copy in", "compute", "copy out") for number in range(3)
    } == {(span.kind, span.number) for span in spans}
    assert together_ms(of("copy in", 2), of("compute", 1), of("copy out", 0)) > 0


def test_buffers_are_used_again(bench, monkeypatch):
    """Many batches need few buffers, and no more than the limit."""
    section = {"device": {"copy_out": True, "pinned_bytes": 2**16}}

    answers = late_answers(bench, monkeypatch, section, NO_DELAYS, batches=20)

    assert answers == right_answers(bench, batches=20)
    assert 0 < sum(buffer.nbytes for buffer in bench.accelerator.pinned) <= 2**16


@pytest.mark.parametrize("way", ["upload", "download"])
def test_a_copy_that_fails_gives_its_buffer_back(bench, monkeypatch, way):
    """Memory that runs out during copies does not use up the pinned memory, time after time."""
    device = bench.accelerator
    payload = {"a": torch.ones(2), "b": torch.ones(3)}
    if way == "download":
        payload = upload(device, PinnedBuffers(device, 0).take, payload).payload
    streams = Streams(device, copy_out=True, pinned_bytes=4096)
    copy = getattr(device, way)

    def fail(leaf, *args, **kwargs):
        if leaf.numel() == 3:
            raise torch.OutOfMemoryError
        return copy(leaf, *args, **kwargs)

    monkeypatch.setattr(device, way, fail)
    stage = "preprocess" if way == "upload" else "postprocess"
    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError), streams.work(stage, [], 2) as work:
            (work.hand_over if way == "upload" else work.take_in)(payload)
        streams.release()

    assert streams.pinned.take(4096) is device.pinned[-1]
    assert sum(buffer.nbytes for buffer in device.pinned) == 4096


def test_a_mapping_may_make_its_values_anew(bench):
    """A mapping whose values are other objects each time is not copied, and fails nobody."""

    class Fresh(UserDict):
        def __getitem__(self, key):
            return super().__getitem__(key).clone()

    payload = Fresh(a=torch.ones(2))

    passed = upload(bench.accelerator, PinnedBuffers(bench.accelerator, 0).take, payload).payload

    assert torch.equal(passed["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("leaf", "size"),
    [
        (torch.ones(2, 3), 24),
        (torch.ones(2, 3).requires_grad_(), None),
        (torch.ones(2, 3, device="meta"), None),
        (torch.nn.Parameter(torch.ones(2)), None),
        (torch.ones(2, dtype=torch.complex64).conj(), None),
        (torch.eye(2).to_sparse(), None),
    ],
    ids=["plain", "with gradients", "elsewhere", "subclass", "conjugate", "sparse"],
)
def test_what_goes_through_a_buffer(leaf, size):
    """A plain tensor of the host or the device does; what would lose something does not."""
    assert Accelerator(torch.device("cpu")).size_bytes(leaf) == size


class Runtime:
    """Stands for torch.cuda: which thread asked for what, on which device; and what it refuses."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.here = threading.local()
        self.told: list[tuple[str, int, int]] = []

    @contextmanager
    def device(self, device):
        before, self.here.device = getattr(self.here, "device", 0), device.index
        yield
        self.here.device = before

    @contextmanager
    def stream(self, stream):
        self._tell(f"begin {stream}")
        yield
        self._tell(f"end {stream}")

    def set_device(self, device):
        self.here.device = device.index
        self._tell("set device")

    def current_device(self):
        return getattr(self.here, "device", 0)

    def synchronize(self, device):
        self._tell("synchronize")

    def cudart(self):
        return SimpleNamespace(
            cudaHostRegister=lambda *_: self._tell("lock"),
            cudaHostUnregister=lambda *_: self._tell("unlock"),
        )

    def _tell(self, what: str) -> int:
        self.told.append((what, self.current_device(), threading.get_ident()))
        return self.code


@pytest.fixture
def runtime(monkeypatch):
    """A runtime in place of torch.cuda, for an accelerator on the second device."""
    runtime = Runtime()
    monkeypatch.setattr(torch, "get_device_module", lambda _device: runtime)
    return runtime


SECOND = torch.device("cuda", 1)


@pytest.mark.parametrize(("code", "locked"), [(0, True), (2, False)])
def test_an_error_of_locking_pages_is_left_to_no_other_call(runtime, code, locked):
    """Memory is locked for the right device, in a thread that does nothing else."""
    runtime.code = code

    assert Accelerator(SECOND).lock_pages(4096, 4096) is locked

    ((what, device, thread),) = runtime.told
    assert (what, device) == ("lock", 1)
    assert thread != threading.get_ident()


def test_pages_are_unlocked_once_copies_have_ended(runtime):
    """The device is waited for first; and it is the right one."""
    Accelerator(SECOND).unlock_pages(4096)

    assert [(what, device) for what, device, _ in runtime.told] == [
        ("synchronize", 1),
        ("unlock", 1),
    ]


def test_a_stream_is_left_on_its_own_device(runtime):
    """A thread on the first device never makes torch go back there, which would take memory."""
    with Accelerator(SECOND).using("stream"):
        assert runtime.current_device() == 1

    assert [(what, device) for what, device, _ in runtime.told] == [
        ("begin stream", 1),
        ("end stream", 1),
    ]
    assert runtime.current_device() == 0


@pytest.mark.parametrize("index", [0, 1])
def test_a_thread_that_is_on_its_device_does_not_set_it(runtime, index):
    """Setting the first device, where every thread begins, could take memory there."""
    state = ThreadState(
        grad_enabled=True,
        inference_mode=False,
        autocast={},
        device=torch.device("cuda", index),
        default_device=None,
    )

    state.apply()

    assert runtime.current_device() == index
    assert len(runtime.told) == index
