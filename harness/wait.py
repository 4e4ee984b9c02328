"""Bounded waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")

INTERVAL = 0.02


def until(
    condition: Callable[[], T],
    what: str,
    timeout: float = 30.0,
    refused: Callable[[], str | None] = lambda: None,
) -> T:
    """The first true value of `condition`.

    Args:
        condition: asked again and again; a false value means "not yet".
        what: what is waited for, for the error.
        timeout: seconds.
        refused: says why it will never come true, as soon as that is known.

    Raises:
        TimeoutError: `timeout` has passed, or `refused` gave a reason.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if reason := refused():
            raise TimeoutError(f"{what}: {reason}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(INTERVAL)
