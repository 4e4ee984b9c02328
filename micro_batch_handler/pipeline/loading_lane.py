"""The lane that loads a handler and makes the calls that only the loading thread may bear.

For servers whose own threads come and go, as Ray Serve's. TorchServe's worker loads and calls its
handler in one thread, the main one, and needs no such lane.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from micro_batch_handler.pipeline.lane_pool import LanePool

__all__ = ["LoadingLane", "current_loading_lane"]

Result = TypeVar("Result")

_of_thread = threading.local()


class LoadingLane(LanePool):
    """One lane. A pipeline that is made in it makes its last calls there."""

    def __init__(self) -> None:
        super().__init__("loading", 1, None, self._mark)

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

    def _mark(self) -> None:
        _of_thread.lane = self


def current_loading_lane() -> LoadingLane | None:
    """The loading lane that the calling thread is; None if it is none."""
    return getattr(_of_thread, "lane", None)
