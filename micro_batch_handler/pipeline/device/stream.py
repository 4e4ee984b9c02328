"""One stream of a device, and references to what its unfinished work still needs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.device_errors import device_is_lost

__all__ = ["Stream"]


class Stream:
    """A stream of the device.

    Args:
        device: that the stream belongs to.
        queue: the device's own object for the stream.
    """

    def __init__(self, device: Accelerator, queue: Any) -> None:
        self._device = device
        self.queue = queue
        self._kept = deque[tuple[Any, Any | None, Callable[[], None] | None]]()
        # Reentrant, because a destructor may make a call of its own. Waited for, because a thread
        # that gave up when another is dropping could leave behind what has just ended.
        self._dropping = threading.RLock()
        self._is_dropping = False

    def record(self) -> Any:
        """An event that comes when all work that the stream has now has ended."""
        event = self._device.event()
        event.record(self.queue)
        return event

    def keep(self, things: Any, until: Any | None, then: Callable[[], None] | None = None) -> None:
        """Hold references to what the stream's work needs; `drop_what_is_done` lets go of them.

        Args:
            things: that the work needs.
            until: the event that comes when it has ended; None if nobody will know.
            then: is called when the things are let go of.
        """
        self._kept.append((things, until, then))

    def drop_what_is_done(self) -> None:
        """Let go of what was kept for events that have come; never waits for the device."""
        with self._dropping:
            if self._is_dropping:
                return
            self._is_dropping = True
            try:
                # In order, since the work of one stream ends in order.
                while self._kept and self._has_come(self._kept[0][1]):
                    things, _, then = self._kept.popleft()
                    if then is not None:
                        then()
                    del things
            finally:
                self._is_dropping = False

    def _has_come(self, event: Any | None) -> bool:
        try:
            return event is not None and bool(event.query())
        except RuntimeError as error:
            # Another thread's call may have lost the device, and this process ends. What this one
            # holds must be kept now: its own call was good, so that no error tells it later.
            if device_is_lost(error):
                self._device.keep_all()
            return False
