"""What tuning is asked for and has found: goals, and for each a setting and what holds it up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.tools.tuning.load import Figures, Load
from micro_batch_handler.tools.tuning.measurements import Measurements
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import Trial
from micro_batch_handler.tracing.diagnosis import Diagnosis, diagnose
from micro_batch_handler.tracing.recording import Setup

__all__ = [
    "MIB",
    "NOISY",
    "Goal",
    "Recommendation",
    "Tuning",
    "Utilization",
    "frontier",
    "goals",
]

NOISY = 0.1
"""Repeated measures further apart than this, relatively, are not to be trusted."""

FACTOR = 2.0
"""How many times as fast the busiest stage is taken to be in the prediction."""

ALIKE = 0.02
"""Rates that differ by less are alike: then the lower latency counts."""

MIB = 2**20


@dataclass(frozen=True)
class Goal:
    """The most throughput, within limits."""

    title: str
    p99_s: float | None = None
    memory_bytes: int | None = None

    def admits(self, figures: Figures) -> bool:
        """Whether the figures keep the limits."""
        in_time = self.p99_s is None or figures.p99_s <= self.p99_s
        return in_time and (self.memory_bytes is None or figures.memory_bytes <= self.memory_bytes)

    def ranked(self, figures: Iterable[Figures]) -> list[Figures]:
        """The figures that keep the limits, the fastest first."""
        return sorted(filter(self.admits, figures), key=lambda each: -each.rate)

    def best(self, figures: Iterable[Figures]) -> Figures | None:
        """Of about the fastest, the one with the lowest latency; None if none keeps the limits."""
        ranked = self.ranked(figures)
        alike = [each for each in ranked if each.rate >= (1 - ALIKE) * ranked[0].rate]
        return min(alike, key=lambda each: each.p99_s, default=None)


def goals(p99_ms: float | None, memory_mib: float | None) -> list[Goal]:
    """The most throughput, then within each limit, then within both; the last is the strictest."""
    in_time = [] if p99_ms is None else [Goal(f"p99 at most {p99_ms:g} ms", p99_ms / 1000)]
    in_memory: list[Goal] = []
    if memory_mib is not None:
        in_memory = [Goal(f"at most {memory_mib:g} MiB", None, int(memory_mib * MIB))]
    both = [
        Goal(f"{one.title} with {other.title}", one.p99_s, other.memory_bytes)
        for one in in_time
        for other in in_memory
    ]
    return [Goal("the most throughput"), *in_time, *in_memory, *both]


def frontier(figures: Sequence[Figures]) -> list[Figures]:
    """The figures that no others beat in both throughput and latency, the lowest latency first."""
    front: list[Figures] = []
    for each in sorted(figures, key=lambda each: (each.p99_s, -each.rate)):
        if not front or each.rate > front[-1].rate:
            front.append(each)
    return front


@dataclass(frozen=True)
class Utilization:
    """How busy a setting keeps lanes and cores, and what holds it up."""

    diagnosis: Diagnosis
    """The one that the trace command would make."""
    cores_used: float
    """Cores that all workers keep busy; for moments it may be more than there are, where a quota
    of processor time counts over longer."""
    cores: int
    """That all workers may use."""
    gain: float
    """How much the throughput would rise, relatively, if the busiest stage were twice as fast."""

    @classmethod
    def of(cls, setting: Setting, trials: Sequence[Trial], load: Load, cores: int) -> Utilization:
        """The utilization in at least one trial of a setting."""
        batches = [batch for trial in trials for batch in trial.batches]
        # Here, since it loads TorchServe, which --help does not need.
        from micro_batch_handler.torchserve.member import CALLS

        # The lanes of a worker's inference only wait for the model that it shares.
        waiting = {"inference": CALLS} if setting.shares else {}
        setup = Setup("", replace(setting.lanes, **waiting), setting.batch_size, cores)
        diagnosis = diagnose([batch.traced for batch in batches], setup)
        profile = diagnosis.profile
        faster = profile.faster(profile.busiest, FACTOR)
        gain = load.rate(setting, faster.batch_s) / load.rate(setting, profile.batch_s) - 1
        used = setting.workers * median(batch.cores_used for batch in batches)
        used += fmean(batch.host_cores_used for batch in batches)
        return cls(diagnosis, used, cores, gain)

    def __str__(self) -> str:
        profile = self.diagnosis.profile
        shares = ", ".join(
            f"{stage} {100 * share:.0f} %"
            for stage, share in zip(STAGES, profile.busy, strict=True)
        )
        used = min(self.cores_used, self.cores)
        busiest = STAGES[profile.busiest]
        after = profile.faster(profile.busiest, FACTOR).bottleneck
        then = "no stage" if after is None else STAGES[after]
        would = "it would still" if after == profile.busiest else f"{then} would"
        return (
            f"While a batch runs, the lanes are busy: {shares}; {used:.1f} of {self.cores} cores "
            f"are. {self.diagnosis.finding} With {busiest} twice as fast, there would be "
            f"{100 * self.gain:.0f} % more throughput (predicted), and {would} be the bottleneck."
        )


@dataclass(frozen=True)
class Recommendation:
    """The setting for one goal."""

    goal: Goal
    measured: Figures | None = None
    """None if no setting that was run keeps to the limits."""
    already: bool = False
    """Whether it is the setting in force."""
    utilization: Utilization | None = None


@dataclass(frozen=True)
class Tuning:
    """All that tuning has found."""

    measured: Measurements
    given: Figures | None
    """The figures of the setting in force; None if requests fail in it."""
    recommendations: Sequence[Recommendation]
    predicted: Mapping[Setting, Figures]
    """What was predicted of each setting before it was run."""
    tried: Sequence[Figures]
    """Of all settings that were run."""
    failed: Mapping[Setting, str]
    """Settings in which requests failed, and why."""
    candidates: int
    """Settings that were computed."""
    larger: bool
    """Whether larger batches would have been tried in more time."""
    lanes_before: PerStage[int]
    noise: float
    """How far repeated measures lie apart, relatively; the most of stages and finalists."""
    about: Sequence[str] = ()
    """Notes on how the setting in force was measured."""

    @property
    def noisy(self) -> bool:
        """Whether the machine was too restless to trust the result."""
        return self.noise > NOISY
