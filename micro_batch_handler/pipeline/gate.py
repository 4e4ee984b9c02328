"""Lets threads in together, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Many may be inside, or one alone; whoever wants to be alone goes before those who come later.

    For any number of threads.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0
        """Those that are alone inside, or wait for that."""

    @contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        """In the body, this thread is inside.

        Args:
            alone: whether nobody else may be inside meanwhile.
        """
        with self._changed:
            if alone:
                self._alone += 1
            self._changed.wait_for(lambda: not (self._inside if alone else self._alone))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone -= alone
                self._changed.notify_all()
