"""The work of one call: a `with` block around the user's method, here without streams.

with streams.work(stage, inputs, rows) as work:
    result = work.hand_over(method(work.take_in(payload)))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.device.accelerator import Accelerator, accelerator_in_use
from micro_batch_handler.pipeline.payloads.operations import Payload

__all__ = ["Input", "NoStreams", "Observe", "Work"]

Observe: TypeAlias = Callable[[Stage, int, float], None]
"""(stage, rows, seconds) of one good call; the device's seconds if it takes longer than Python."""


class Input(Protocol):
    """What a call takes in."""

    @property
    def done(self) -> Any:
        """The event after which it may be used; None if it may be used at once."""


class Work:
    """One call of one stage, as a `with` statement; on a device without streams it is only timed.

    Args:
        stage: that is called.
        rows: of the call.
        observe: is told how long the call took, if it was good.
    """

    __slots__ = ("_observe", "_rows", "_stage", "_started_s", "done")

    def __init__(self, stage: Stage, rows: int, observe: Observe | None) -> None:
        self.done: Any = None
        """The event after which the result may be used; None if it may be used at once."""
        self._stage = stage
        self._rows = rows
        self._observe = observe

    def take_in(self, payload: Payload) -> Payload:
        """What the stage is called with."""
        return payload

    def hand_over(self, result: Payload) -> Payload:
        """What the next stage gets."""
        return result

    def device_timer(self) -> Callable[[], float | None]:
        """Waits for the device, and gives its seconds; None where they are Python's own.

        It keeps nothing of what the call works on.
        """
        return lambda: None

    def __enter__(self) -> Work:  # noqa: PYI034  (typing.Self needs Python 3.11)
        self._started_s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._observe is not None:
            self._observe(self._stage, self._rows, time.perf_counter() - self._started_s)


class NoStreams:
    """Stands in for `Streams` on a CPU, and where all work goes to the default stream.

    Args:
        observe: is told how long each good call took.
        device: that the handler uses; None for the one that is in use, if any.
    """

    def __init__(self, observe: Observe | None = None, device: Accelerator | None = None) -> None:
        self._observe = observe
        self._device = device

    def work(
        self,
        stage: Stage,
        _inputs: Sequence[Input],
        rows: int,
        *,
        overlaps: bool = True,  # noqa: ARG002
    ) -> Work:
        """A call of the stage on so many rows."""
        return Work(stage, rows, self._observe)

    def finish(self) -> None:
        """Wait for the device, if one is in use."""
        if (device := self._device or accelerator_in_use()) is not None:
            device.synchronize()

    def release(self) -> None:
        """Give cached memory back to the device, once its work has ended."""
        if (device := self._device or accelerator_in_use()) is not None:
            device.synchronize()
            device.empty_cache()

    def keep_all(self) -> None:
        """Keep everything on a lost device, since freeing it would abort the process."""
        if (device := self._device or accelerator_in_use()) is not None:
            device.keep_all()
