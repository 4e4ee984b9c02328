"""The lane that loads a handler and makes the calls that only the loading thread may bear.

For servers whose own threads come and go, as Ray Serve's. TorchServe's worker loads and calls its
handler in one thread, the main one, and needs no such lane.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from micro_batch_handler.pipeline.call import LANE, LOADING_LANE
from micro_batch_handler.pipeline.lane_pool import LanePool

__all__ = ["LoadingLane", "current_loading_lane"]

Result = TypeVar("Result")

_of_thread = threading.local()


class LoadingLane(LanePool):
    """One lane. A pipeline that is made in it makes its last calls there.

    Args:
        setup: called in it first, and in the lane that stands in for one that hangs.
    """

    def __init__(self, setup: Callable[[], object] = bool) -> None:
        marking = partial(_mark, weakref.ref(self), setup)
        super().__init__(LOADING_LANE.removeprefix(LANE), 1, None, marking)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is this lane."""
        return current_loading_lane() is self

    def do(self, function: Callable[[], Result]) -> Result:
        """Call a function in this lane, and wait for it; the lane itself may ask for that too.

        Raises:
            BaseException: whatever the function raises.
        """
        if self.is_here:
            return function()
        done: Future[Result] = Future()

        def task() -> bool:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)
            return True

        self.submit(task)
        return done.result()


def current_loading_lane() -> LoadingLane | None:
    """The loading lane that the calling thread is; None if it is none."""
    found: LoadingLane | None = getattr(_of_thread, "lane", lambda: None)()
    return found


def _mark(lane: weakref.ref[LoadingLane], setup: Callable[[], object]) -> None:
    _of_thread.lane = lane
    setup()
