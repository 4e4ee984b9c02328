"""The part of a member's link that starts hosts, and tells how they have ended."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.hosting.meeting_place import MeetingPlace, StartedHost

__all__ = ["HostStarter", "tell"]

logger = logging.getLogger(__name__)

WAIT_S = 0.05
"""For a host to end whose connections are closed."""

END_S = 2.0
"""For a host to end that was told to."""


def tell(words: str) -> None:
    """Log how a host has ended, if that is known."""
    if words:
        logger.warning("the process with the model: %s", words)


class HostStarter:
    """Starts hosts for one member.

    Args:
        place: where the members meet.
        start: starts a host there, unless one runs or starts.
    """

    def __init__(
        self, place: MeetingPlace, start: Callable[[MeetingPlace], StartedHost | None]
    ) -> None:
        self._place = place
        self._start = start
        self._started: StartedHost | None = None

    def start(self) -> bool:
        """Start a host, unless one runs or starts; whether it was started.

        Raises:
            ConfigError: it cannot be started.
        """
        started, before = self._start(self._place), self._started
        if started is None:
            return False
        if before is not None:  # it had not quite ended when its last words were asked for
            tell(before.last_words())
        self._started = started
        # Waited for, so that it is no zombie once it has ended.
        threading.Thread(target=started.process.wait, name="mbh-host-wait", daemon=True).start()
        logger.info("started process %d, which loads the model", started.process.pid)
        return True

    def abandon(self) -> None:
        """End the host that was started here, and remove what it leaves behind.

        It may be about to lose its files, before it can clean up by itself.
        """
        started = self._started
        if started is None:
            return
        started.process.terminate()
        with suppress(subprocess.TimeoutExpired, OSError, ConfigError):
            started.process.wait(END_S)
            self._place.remove_unused()

    def last_words(self) -> str:
        """How the host that was started here has ended; empty if it runs, or another has."""
        started = self._started
        if started is None:
            return ""
        with suppress(subprocess.TimeoutExpired):  # its connections close before it has ended
            started.process.wait(WAIT_S)
        words = started.last_words()
        if words and self._started is started:
            self._started = None
        return words
