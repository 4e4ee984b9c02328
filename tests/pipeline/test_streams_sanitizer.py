"""PyTorch's own happens-before engine watches the hand-over on the fake device.

The engine of `TORCH_CUDA_SANITIZER` is plain Python and private
(https://pytorch.org/docs/stable/cuda._sanitizer.html). It takes the host for one thread: where any
thread waits, all streams count as ordered. So it finds missing waits of streams; what else can be
missing, test_streams_mutants.py shows. Blocks are never reported as freed to it, so that it also
sees memory that is used again too early.
"""

from __future__ import annotations

import inspect
import itertools

import pytest

from tests.pipeline.device_mistakes import MISTAKES, name_of
from tests.pipeline.device_traffic import Traffic, problems
from tests.pipeline.fake_device import HOST, Observer

sanitizer = pytest.importorskip("torch.cuda._sanitizer", exc_type=ImportError)

LAUNCH = ["self", "stream", "read_only", "read_write", "outputs", "operator", "tensor_aliases"]

if list(inspect.signature(sanitizer.EventHandler._handle_kernel_launch).parameters) != LAUNCH:
    pytest.skip("this PyTorch's sanitizer has another interface", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("quick_turns")

SEEDS = 60
HOST_STREAM = 1_000_000


class Sanitizer(Observer):
    """Tells the engine what happens; the device calls it under its lock."""

    def __init__(self) -> None:
        self._engine = sanitizer.EventHandler()
        self._engine._handle_stream_creation(HOST_STREAM)
        self._own_events = itertools.count(-1, -1)
        self.errors = []

    def stream(self, stream: int) -> None:
        if stream:  # the engine knows the default stream
            self._engine._handle_stream_creation(stream)

    def launch(self, stream: int, reads: set[int], writes: set[int], name: str) -> None:
        if stream == HOST:
            stream = HOST_STREAM
        else:
            # What is asked for comes after what the host has done.
            event = next(self._own_events)
            self._engine._handle_event_creation(event)
            self._engine._handle_event_record(event, HOST_STREAM)
            self._engine._handle_event_wait(event, stream)
            self._engine._handle_event_deletion(event)
        aliases = {cell: [name] for cell in reads | writes}
        self.errors += self._engine._handle_kernel_launch(
            stream, reads, writes, set(), name, aliases
        )

    def record(self, event: int, stream: int) -> None:
        self._engine._handle_event_record(event, stream)

    def wait(self, event: int, stream: int) -> None:
        self._engine._handle_event_wait(event, stream)

    def event_came(self, event: int) -> None:
        self._engine._handle_event_synchronization(event)

    def stream_ended(self, stream: int) -> None:
        self._engine._handle_stream_synchronization(stream)

    def device_ended(self) -> None:
        self._engine._handle_device_synchronization()


def test_no_access_is_unsynchronised():
    """The engine, fed with all launches, events and waits of many seeds, reports nothing."""
    for seed in range(SEEDS):
        watch = Sanitizer()
        problems(Traffic.drawn(seed), watch)

        assert not watch.errors, watch.errors[0]


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.unordered], ids=name_of)
def test_with_the_mistake_it_reports_an_access(mistake):
    """Each wait, hold and event that is left out makes an access that the engine reports."""
    with mistake.planted():
        assert any(_errors(seed) for seed in range(SEEDS))


def _errors(seed: int) -> list:
    watch = Sanitizer()
    problems(Traffic.drawn(seed), watch)
    return watch.errors
