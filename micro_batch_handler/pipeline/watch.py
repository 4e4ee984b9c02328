"""Bounding one call of one stage in time: a clock, an alarm, and the stacks of all lanes.

Calls in lanes are watched by the thread that waits for the batch. A call inline, in that very
thread, is interrupted by an alarm; it works in the main thread only, which is where TorchServe
calls its handlers.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import traceback
from types import FrameType

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.pipeline.call import LANE

__all__ = ["Clock", "alarm", "alarm_works_here", "in_main_thread", "stacks"]


class Clock:
    """The time; a test passes its own."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, event: threading.Event, until_s: float | None = None) -> bool:
        """Wait until the event is set, or until this moment; whether it is set."""
        return event.wait(None if until_s is None else max(0.0, until_s - self.now_s()))


RING_AGAIN_S = 1.0
"""An alarm rings until it is heard: a bare `except:` or a `__del__` swallows what it raises."""

SHORTEST_AGAIN_S = 0.01
"""After a short time-out; the call needs some time to end."""


class _Alarm(BaseException):
    """Raised in the main thread by the alarm; no handler's `except Exception` stops it."""


def in_main_thread() -> bool:
    """Whether this is the thread in which TorchServe loads and calls its handlers."""
    return threading.current_thread() is threading.main_thread()


def alarm_works_here() -> bool:
    """Make this thread one that an alarm can interrupt; False if it is not, or another uses it."""
    if not in_main_thread():
        return False
    found = signal.getsignal(signal.SIGALRM)
    if found == signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _ring)
    return found in (signal.SIG_DFL, _ring)


class alarm:  # noqa: N801  (a context manager reads as a verb's object)
    """Interrupt the body of a `with` statement after `timeout_s`, where `alarm_works_here()`.

    With None for the time nothing is interrupted.

    Only Python code and what Python waits for can be interrupted. A call that hangs in native code
    is ended by TorchServe, which kills the worker after `responseTimeout`.

    Raises:
        StageTimeout: the body took longer.
    """

    __slots__ = ("_stage", "_timeout_s", "due_s")

    def __init__(self, stage: Stage, timeout_s: float | None) -> None:
        self._stage = stage
        self._timeout_s = timeout_s
        self.due_s = math.inf
        """When it rings, as a monotonic time."""

    def __enter__(self) -> None:
        if self._timeout_s is None:
            return
        self.due_s = time.monotonic() + self._timeout_s
        _running.append(self)
        again_s = min(max(self._timeout_s, SHORTEST_AGAIN_S), RING_AGAIN_S)
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s, again_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self._timeout_s is None:
            return
        now_s = time.monotonic()
        _running.pop()
        # An alarm of an outer call goes on with what is left of it.
        left_s = max(_running[-1].due_s - now_s, 1e-6) if _running else 0.0
        signal.setitimer(signal.ITIMER_REAL, left_s, RING_AGAIN_S if left_s else 0)
        # By its type, since some errors resist isinstance.
        interrupted = kind is not None and issubclass(kind, _Alarm)
        if interrupted or now_s >= self.due_s:
            raise StageTimeout(self._stage, self._timeout_s) from error

    def rings_in(self, frame: FrameType | None) -> bool:
        """Whether a signal that comes while this frame runs is to interrupt it.

        The system may hand over a signal late, by way of another thread, when the call that it was
        for has ended. In the methods of this class nobody would catch what is raised.
        """
        own = frame is not None and frame.f_code in {
            alarm.__enter__.__code__,
            alarm.__exit__.__code__,
        }
        return not own and time.monotonic() >= self.due_s


_running: list[alarm] = []
"""Of the main thread; the innermost comes last."""


def _ring(_signal: int, frame: FrameType | None) -> None:
    if _running and _running[-1].rings_in(frame):
        raise _Alarm


def stacks() -> str:
    """What every lane is doing, for the log."""
    frames = sys._current_frames()  # noqa: SLF001  (its documented use)
    # Our own holds this dict: in a circle, the frames of all lanes would wait for the garbage
    # collector, with all that they hold.
    del frames[threading.get_ident()]
    texts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread.name.startswith(LANE):
            texts.append(f"{thread.name}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(texts)
