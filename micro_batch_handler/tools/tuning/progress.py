"""What a terminal shows while a handler is measured: a bar, and errors, but no other log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from micro_batch_handler.tools.tuning.trials import TimeBudget

__all__ = ["errors_only", "time_budget"]


@contextmanager
def errors_only() -> Iterator[None]:
    """Log errors only: each of hundreds of engines would log its settings.

    What handlers print goes to stderr, where it is in nobody's way.
    """
    logger = logging.getLogger("micro_batch_handler")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def time_budget(seconds: float) -> Iterator[TimeBudget]:
    """The time, with a progress bar where there is a terminal."""
    from tqdm import tqdm  # of an extra

    tqdm.monitor_interval = 0  # no thread of its own while others are measured
    form = "{desc:<44.44} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=seconds, bar_format=form, disable=None, leave=False) as bar:

        def told(used_s: float, doing: str) -> None:
            bar.set_description_str(doing, refresh=False)
            bar.update(min(used_s, seconds) - bar.n)

        yield TimeBudget(seconds, told)
