"""Whether more than one worker is worth its memory: reasoned first, then measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from micro_batch_handler.tools.tuning.batch import Visit
from micro_batch_handler.tools.tuning.goals import MIB, Figures
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.result import Recommendation
from micro_batch_handler.tools.tuning.search import measured_figures
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["with_workers"]

WORTH = 0.1
"""What another worker must gain in throughput, relatively, to be recommended."""

Copies = Callable[[Setting, int], Sequence[Visit]]
"""What batches take in each of so many workers that run at the same time."""


def with_workers(found: Recommendation, most: int, load: Load, copies: Copies) -> Recommendation:
    """The recommendation with as many workers as are worth it, and why.

    Workers share the cores. So all of them together are at most so much faster as cores are idle
    with one; where that is little, none is tried.

    Args:
        found: for one worker.
        most: workers to try.
        load: what the server around a worker costs.
        copies: runs several.
    """
    one = found.measured
    if one is None or found.outlook is None or most == 1:
        return found
    rows = one.setting.batch_size
    used = found.outlook.cores * one.batch_s * one.rate / rows
    gain = min(2.0, 1 / used if used else 2.0) - 1
    costs = f"another {one.memory_bytes / MIB:,.0f} MiB" if one.memory_bytes else "as much memory"
    if gain < WORTH:
        return replace(
            found,
            about_workers=(
                f"A second worker was not tried: with one the cores are busy {used:.0%} of the "
                f"time, so it could gain {max(gain, 0):.0%} at most, for {costs}.",
            ),
        )
    told = []
    best, count = one, 1
    for workers in range(2, most + 1):
        several = _together(one, copies(one.setting, workers), load)
        more = several.rate / best.rate - 1
        told.append(
            f"{workers} workers, measured side by side: {several.rate:,.0f} requests/s "
            f"({more:+.0%}), p99 {several.p99_s * 1000:.3g} ms, {costs} each."
        )
        if more < WORTH or not found.goal.admits(several):
            told.append(f"That is not worth it; keep {count}.")
            break
        best, count = several, workers
    return replace(
        found, workers=count, several=best if count > 1 else None, about_workers=tuple(told)
    )


def _together(one: Figures, visits: Sequence[Visit], load: Load) -> Figures:
    each = [measured_figures(one.setting, [visit], load) for visit in visits]
    return replace(
        one,
        rate=sum(figures.rate for figures in each),
        p50_s=fmean(figures.p50_s for figures in each),
        p99_s=max(figures.p99_s for figures in each),
        memory_bytes=sum(figures.memory_bytes for figures in each),
        batch_s=fmean(figures.batch_s for figures in each),
        batches=sum(figures.batches for figures in each),
    )
