"""What holds a setting up, and what would be next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.tools.tuning.batch import Visit
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Outlook", "outlook"]

FACTOR = 2.0
"""How much faster the bottleneck is thought to become."""


@dataclass(frozen=True)
class Outlook:
    """Where the time of batches goes."""

    busy: Sequence[float]
    """For each stage, the part of a batch's time that its lanes work."""

    cores_used: float
    """Cores that all workers keep busy; for moments it may be more than there are, where a quota
    of processor time counts over longer."""

    cores: int
    """That there are."""

    bottleneck: Stage
    gain: float
    """What more throughput there would be, relatively, if it were twice as fast."""

    next_bottleneck: Stage

    def __str__(self) -> str:
        shares = ", ".join(
            f"{stage} {share:.0%}" for stage, share in zip(STAGES, self.busy, strict=True)
        )
        then = (
            "It would still be what holds up the others."
            if self.next_bottleneck == self.bottleneck
            else f"Then {self.next_bottleneck} would be next."
        )
        used = min(self.cores_used, self.cores)
        return (
            f"While a batch runs, the lanes are busy: {shares}; {used:.1f} of {self.cores} cores "
            f"are. "
            f"The bottleneck is {self.bottleneck}: twice as fast, it would give {self.gain:.0%} "
            f"more throughput (predicted). {then}"
        )


def outlook(setting: Setting, visits: Sequence[Visit], model: BatchModel, load: Load) -> Outlook:
    """The bottleneck of a setting, from batches that were run in it."""
    batches = [batch for visit in visits for batch in visit.batches]
    lanes = setting.lane_counts
    busy = [
        median(batch.busy_s(stage) / batch.seconds for batch in batches) / lanes[at]
        for at, stage in enumerate(STAGES)
    ]
    used = setting.workers * median(batch.cpu_s / batch.seconds for batch in batches)
    first = max(range(len(STAGES)), key=busy.__getitem__)
    faster = model.faster(first, FACTOR)
    rows = setting.batch_size
    before = load.rate(rows, model.batch_s(setting))
    gain = load.rate(rows, faster.batch_s(setting)) / before - 1
    later = [share / FACTOR if at == first else share for at, share in enumerate(busy)]
    then = max(range(len(STAGES)), key=later.__getitem__)
    return Outlook(busy, used, model.cores, STAGES[first], gain, STAGES[then])
