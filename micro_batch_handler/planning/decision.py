"""What was decided for batches of one size, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.cost_model import CostModel
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.search import best
from micro_batch_handler.planning.sizes import SizeOptions

__all__ = ["Decision", "decide"]

GAIN = 0.03
"""Splitting must be predicted to gain more than this; to go on splitting, a third of it."""


@dataclass(frozen=True)
class Decision:
    """A plan, and what is expected of it and of the other way."""

    version: int
    """Of what it was chosen by."""

    whole: Plan
    proposed: Plan | None
    """The best sizes that cut, by what calls cost; None if there are none, or nothing is known."""

    searched: int
    """Which costs they were searched by."""

    calls_s: tuple[float, float]
    """When the one and the other would be finished, if calls were all."""

    split: Plan | None
    """The sizes that cut, as it is decided: those proposed, or those that have proved best."""

    whole_s: float
    split_s: float
    """When batches are expected to be finished, unsplit and split."""

    splits: bool
    plan: Plan

    may_pay: bool = False
    """Whether cutting could be faster at all, whatever smaller calls turn out to cost; False while
    nothing is known."""

    def about(self, split: Plan, split_s: float, before: Decision | None) -> Decision:
        """The same decision about other sizes that cut, with which a batch takes so long."""
        splits = _splits(split_s, self.whole_s, before)
        plan = split if splits else self.whole
        return replace(self, split=split, split_s=split_s, splits=splits, plan=plan)

    def told(self, rows: int, *, stopped: bool = False) -> str:
        """Sizes and expected times, for a batch of so many rows.

        Args:
            rows: of a batch.
            stopped: whether batches stay whole, whatever was decided, since splits have lost.
        """
        shown = self.whole if stopped else self.plan
        sizes = zip(STAGES, shown, strict=True)
        parts = ", ".join(f"{stage} {min(size, rows)}" for stage, size in sizes)
        whole, split = f"{_ms(self.whole_s)} ms", f"{_ms(self.split_s)} ms"
        if stopped:
            return f"{parts}: splits were predicted {split}, and took longer than {whole} unsplit"
        if self.splits:
            return f"{parts}: predicted {split} instead of {whole} unsplit"
        if not self.whole_s:
            return f"{parts}: nothing is known yet"
        if not self.may_pay:
            return f"{parts}: {whole} are too short for a split, whatever its calls cost"
        if self.split is None:
            return f"{parts}: no split is faster than {whole}"
        return f"{parts}: predicted {whole} unsplit instead of {split} split"

    def explained(self, rows: int, model: CostModel) -> str:
        """What the expected times are made of: calls, their schedule, what batches take of it."""
        parts = [_explained("Unsplit", rows, self.whole, self.whole_s, model)]
        if self.split is not None:
            parts.append(_explained("Split", rows, self.split, self.split_s, model))
        return ". ".join(parts)


def _explained(title: str, rows: int, sizes: Plan, batch_s: float, model: CostModel) -> str:
    calls_s = model.calls_s(rows, sizes)
    if min(sizes) < rows:
        forecast = model.forecast(rows)
        calls = ", ".join(_calls(*forecast.calls(at, size)) for at, size in enumerate(sizes))
        lanes = ", ".join(map(str, forecast.lanes))
        ends = (
            f"{calls} ms, {_ms(forecast.hand_over_s)} ms of each to hand it over, end after "
            f"{_ms(calls_s)} ms in {lanes} lanes"
        )
    else:
        ends = f"{' + '.join(map(_ms, model.inline_s(rows)))} = {_ms(calls_s)} ms"
    factor = batch_s / calls_s if calls_s else 1.0
    return f"{title}, calls of {ends}; batches take {factor:.2f} times that"


def _calls(count: int, full_s: float, last_s: float) -> str:
    if count == 1 or full_s == last_s:
        return f"{count} x {_ms(full_s)}"
    return f"{count - 1} x {_ms(full_s)} + {_ms(last_s)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"


def decide(
    rows: int,
    choices: SizeOptions,
    model: CostModel | None,
    before: Decision | None,
    *,
    version: int,
    searched: int,
) -> Decision:
    """The plan for batches of so many rows.

    Args:
        rows: of a batch.
        choices: the sizes that there are.
        model: what is expected; None while nothing is.
        before: what was decided before; its sizes stay if they were searched by the same costs.
        version: of the model, with its corrections.
        searched: of its costs alone.
    """
    whole = choices.whole(rows)
    if model is None or not rows or not choices.free:
        plan = whole
        none = (0.0, 0.0)
        return Decision(version, whole, None, -1, none, None, 0.0, 0.0, splits=False, plan=plan)
    same = before if before is not None and before.searched == searched else None
    if same is not None:
        split, calls_s = same.proposed, same.calls_s
    else:
        forecast = model.forecast(rows)
        sizes = best(forecast, choices, model.least)
        split = None if sizes == whole else sizes
        calls_s = model.calls_s(rows, whole, forecast), forecast.finish_s(sizes)
    whole_s = calls_s[0] * model.correction(rows, split=False)
    split_s = calls_s[1] * model.correction(rows, split=True)
    splits = split is not None and _splits(split_s, whole_s, before)
    plan = split if split is not None and splits else whole
    may_pay = splits or (same.may_pay if same else _may_pay(rows, choices, model, whole_s))
    return Decision(
        version, whole, split, searched, calls_s, split, whole_s, split_s, splits, plan, may_pay
    )


def _may_pay(rows: int, choices: SizeOptions, model: CostModel, whole_s: float) -> bool:
    forecast = model.best_case(rows)
    return forecast.finish_s(best(forecast, choices)) < (1 - GAIN) * whole_s


def _splits(split_s: float, whole_s: float, before: Decision | None) -> bool:
    margin = GAIN / 3 if before is not None and before.splits else GAIN
    return split_s < (1 - margin) * whole_s
