"""Bounding one call of one stage in time: a clock, an alarm, and the stacks of all lanes.

Calls in lanes are watched by the thread that waits for the batch. A call inline, in that very
thread, is interrupted by an alarm; it works in the main thread only, which is where TorchServe
calls its handlers.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import StageTimeout

__all__ = ["Clock", "alarm", "alarm_works_here", "stacks"]


class Clock:
    """The time; a test passes its own."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait until the event is set, or so long; whether it is set."""
        return event.wait(timeout_s)


RING_AGAIN_S = 1.0
"""An alarm rings until it is heard: a bare `except:` or a `__del__` swallows what it raises."""


class _Alarm(BaseException):
    """Raised in the main thread by the alarm; no handler's `except Exception` stops it."""


def alarm_works_here() -> bool:
    """Whether this thread can be interrupted by an alarm that nobody else uses."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, _ring)


@contextmanager
def alarm(stage: Stage, timeout_s: float) -> Iterator[None]:
    """Interrupt the body after `timeout_s`.

    Only Python code and what Python waits for can be interrupted. A call that hangs in native code
    is ended by TorchServe, which kills the worker after `responseTimeout`.

    Raises:
        StageTimeout: the body took longer.
    """
    signal.signal(signal.SIGALRM, _ring)
    outer_s, _ = signal.setitimer(signal.ITIMER_REAL, timeout_s, min(timeout_s, RING_AGAIN_S))
    started_s = time.monotonic()
    try:
        try:
            yield
        finally:
            # An alarm of an outer call goes on with what is left of it.
            left_s = outer_s and max(outer_s - (time.monotonic() - started_s), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left_s, RING_AGAIN_S if left_s else 0)
            _let_a_late_alarm_ring()
    except _Alarm as error:
        raise StageTimeout(stage, timeout_s) from error


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise _Alarm


def _let_a_late_alarm_ring() -> None:
    """Nothing: Python runs signal handlers between calls, and here one can still be caught."""


def stacks() -> str:
    """What every lane is doing, for the log."""
    frames = sys._current_frames()  # noqa: SLF001  (its documented use)
    texts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread.name.startswith("mbh-"):
            texts.append(f"{thread.name}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(texts)
