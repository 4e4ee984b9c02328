"""What was measured of the stages, collected from trials that keep the stages apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.cost_curve import Curve, Line, curve, fit
from micro_batch_handler.planning.sizes import INFERENCE
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, ONE_LANE, Setting
from micro_batch_handler.tools.tuning.trials import SettingFails, Trial, spread
from micro_batch_handler.tracing.recording import call_s

__all__ = ["AS_AUTO", "Collector", "Measurements", "ThreadEffect"]


@dataclass(frozen=True)
class ThreadEffect:
    """How whole batches change with so many threads inside calls."""

    slower: Sequence[float]
    """By what factor calls of each stage take longer than with as many threads as `auto` gives."""
    cores_used: float
    """Cores that a call keeps busy."""


NOTHING = Curve(Line(0.0, 0.0))
"""What calls cost that take no time."""

AS_AUTO = ThreadEffect((1.0,) * len(STAGES), 1.0)


@dataclass(frozen=True)
class Measurements:
    """What was measured of the stages."""

    whole: Sequence[Curve]
    """What a call costs in a whole batch, in the caller's thread with all cores, for each stage."""
    lanes: Sequence[Curve]
    """What a call costs in the only lane of a stage."""
    contention: Mapping[tuple[int, int], float]
    """By stage and number of its lanes: by what factor calls take longer than in one lane."""
    threads: Mapping[int, ThreadEffect]
    """By the number of threads inside calls."""
    cores_used: float
    """Cores that a call keeps busy, alone in a lane."""
    memory: Line | None
    """The most bytes that the process held in a whole batch; None if the system does not tell."""
    largest: int
    """Of the batches that were measured."""
    most_lanes: PerStage[int]
    """That were tried without requests failing."""
    regroups: bool
    """Whether stages can have different sizes."""
    spread: float
    """How far batches of the same setting lie apart, relatively."""
    rounds: int
    host_bytes: int | None = None
    """The most that the process with the model held, if these are costs of workers that share it;
    None if they have a model each."""


@dataclass
class Collector:
    """Collects what trials tell of the stages."""

    padded: Callable[[int], int]
    """The rows that a call of inference really has."""
    most_lanes: PerStage[int]
    """To try, of each stage."""
    cores: int
    """That the process may use."""
    regroups: bool = True

    def __post_init__(self) -> None:
        self._whole = _costs()
        self._lanes = _costs()
        self._crowded: defaultdict[tuple[int, int], CallCosts] = defaultdict(CallCosts)
        self._threaded: defaultdict[int, list[CallCosts]] = defaultdict(_costs)
        self._cores_used: defaultdict[int | None, list[float]] = defaultdict(list)
        """Of calls in whole batches by their threads, and under None in a lane."""
        self._memory = CallCosts()
        self._seconds: defaultdict[Setting, list[float]] = defaultdict(list)
        self._host_bytes: int | None = None

    def failed(self, setting: Setting, failure: SettingFails) -> None:
        """Learn what not to choose; raise the failure if requests would fail in any setting."""
        if not failure.regroups:
            self.regroups = False
            return
        if setting.lanes == ONE_LANE:
            raise failure
        fewer = {
            stage: min(self.most_lanes[stage], setting.lanes[stage] - 1)
            for stage in STAGES
            if setting.lanes[stage] > 1
        }
        self.most_lanes = replace(self.most_lanes, **fewer)

    def knows(self, setting: Setting) -> bool:
        """Whether there was a trial of this setting."""
        return setting in self._seconds

    def add(self, setting: Setting, trial: Trial) -> None:
        """Learn what the calls of these batches took."""
        self._seconds[setting].append(trial.seconds)
        threads = None if setting.splits else setting.threads_in_calls(self.cores)[INFERENCE]
        for at, stage in enumerate(STAGES):
            taken_s: dict[int, list[float]] = defaultdict(list)
            for batch in trial.batches:
                for call in batch.traced.calls:
                    if call.stage == stage:
                        rows = len(call.indices)
                        rows = self.padded(rows) if at == INFERENCE else rows
                        taken_s[rows].append(_cost_s(call))
            # Means, since requests differ; of several trials the median counts.
            means = [(rows, fmean(seconds)) for rows, seconds in taken_s.items()]
            self._costs_of(setting, at, threads).extend(means)
        for batch in trial.batches:
            work_s = sum(map(_cost_s, batch.traced.calls))
            if work_s and (threads is not None or setting.lanes == ONE_LANE):
                self._cores_used[threads].append((batch.cpu_s + batch.host_cpu_s) / work_s)
            if setting.shares:
                self._host_bytes = max(self._host_bytes or 0, batch.host_bytes)
            if threads is not None and batch.peak_bytes:
                self._memory.observe(setting.batch_size, batch.peak_bytes)

    def _costs_of(self, setting: Setting, at: int, threads: int | None) -> CallCosts:
        """Where calls of a stage in this setting are collected."""
        if threads is not None:
            own = setting.threads != AUTO_THREADS
            return self._threaded[threads][at] if own else self._whole[at]
        lanes = setting.lanes[STAGES[at]]
        if lanes > 1:
            return self._crowded[at, lanes]
        # Beside several lanes of other stages, PyTorch has fewer cores inside a call.
        return self._lanes[at] if setting.lanes == ONE_LANE else CallCosts()

    def measurements(self, largest: int, rounds: int) -> Measurements:
        """All of it, after so many rounds with batches of up to so many rows."""
        whole, lanes = _curves(self._whole, self._lanes), _curves(self._lanes, self._whole)
        # Of short calls beside other programs, no processor time may be left to measure.
        cores_used = {threads: median(used) or 1.0 for threads, used in self._cores_used.items()}
        # Neighbours do not make a call cheaper: a factor below 1 is noise.
        contention = {
            (at, count): max(1.0, _slower(costs, lanes[at]))
            for (at, count), costs in self._crowded.items()
        }
        return Measurements(
            whole,
            lanes,
            contention,
            {
                threads: ThreadEffect(list(map(_slower, self._threaded[threads], whole)), used)
                for threads, used in cores_used.items()
                if threads is not None
            },
            cores_used.get(None, 1.0),
            fit(self._memory.points()),
            largest,
            self.most_lanes,
            self.regroups,
            median(map(spread, self._seconds.values())),
            rounds,
            self._host_bytes,
        )


def _cost_s(call: CallRecord) -> float:
    """What a call took, without waiting for other calls of a model that is shared."""
    return call_s(call) - (call.host.began_s - call.host.came_s if call.host else 0.0)


def _costs() -> list[CallCosts]:
    return [CallCosts() for _ in STAGES]


def _curves(own: Sequence[CallCosts], other: Sequence[CallCosts]) -> list[Curve]:
    pairs = zip(own, other, strict=True)
    return [curve(costs.points(), others.points()) or NOTHING for costs, others in pairs]


def _slower(costs: CallCosts, usual: Curve) -> float:
    """By what factor these calls take longer than usual; 1 if there were none."""
    return median([p.seconds / usual(p.rows) for p in costs.points()] or [1.0])
