"""The ways to serve an archive, each with the throughput that the tuner's model forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from micro_batch_handler.config import AUTO, PerStage
from micro_batch_handler.planning.cores import lanes_for
from micro_batch_handler.planning.sizes import INFERENCE
from micro_batch_handler.tools.advising.comparison import Alone
from micro_batch_handler.tools.advising.memory import Memory
from micro_batch_handler.tools.tuning.measurements import NOTHING
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.search import Search
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting, counts_up_to

__all__ = ["Forecasts", "Option", "Options"]

PREPROCESS = 0


@dataclass(frozen=True)
class Option:
    """A way to serve the archive."""

    setting: Setting
    rate: float
    """Requests per second, as forecast."""
    memory_bytes: int
    """Of the machine, that all workers take."""

    @property
    def workers(self) -> int:
        """How many."""
        return self.setting.workers


@dataclass(frozen=True)
class Options:
    """What can be chosen from."""

    now: Option
    """TorchServe alone, in as many workers as it starts and as fit."""
    changed: Option
    """Micro-batching in the same number of workers."""
    workers: Option
    """TorchServe alone, in the best number of workers that fit; `now` if no other is better."""
    both: Option
    """Micro-batching in the number of `workers`."""
    crowded: Option | None
    """TorchServe alone in more workers than fit, if these would be faster."""
    shared: Option
    """Micro-batching in the best number of workers around one model."""
    decoded: Option | None
    """`now`, if preprocess took no time of the cores; None if photos cannot be decoded on a GPU, or
    if that would be idle."""
    frontend_bound: bool
    """Whether TorchServe's frontend takes longer between two batches than the handler for one. How
    several workers share the frontend is not forecast."""
    noise: float
    """How far repeated measures lie apart, relatively."""


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of the ways to serve, on this machine.

    A GPU is taken to run one call of inference at a time. That is cautious, since calls that mostly
    launch kernels overlap.
    """

    search: Search
    """Has the tuner's model, the clients, and what was run, which corrects the model."""
    memory: Memory
    alone: Alone
    batch_size: int
    started: int
    """Workers that TorchServe starts."""
    photos: bool = False
    """Whether all samples are JPEGs, which a GPU can decode."""

    @property
    def model(self) -> BatchModel:
        """Of the stages, as they were measured."""
        return self.search.model

    def options(self) -> Options:
        """All ways."""
        clients, most = self.search.load.clients or 1, self.memory.most_copies
        counts = [count for count in counts_up_to(max(self.model.cores, 1)) if count <= clients]
        now = self.plain(min(self.started, most, clients))
        plain = [now, *(self.plain(count) for count in counts)]
        best = max(plain, key=_rate)
        rows = now.setting.batch_size
        ran = self.search.measured()
        finalists = [each for each in ran if not each.setting.splits]
        finalists.append(max(ran, key=lambda each: each.rate))
        handled_s = self._batch_s(Setting.whole(rows)) + self.alone.more_s * rows
        fitting = max((each for each in plain if each.workers <= most), key=_rate)
        return Options(
            now,
            self.ours(now.workers),
            fitting,
            self.ours(fitting.workers),
            best if best.workers > most else None,
            max((self.ours(count, shares=True) for count in counts), key=_rate),
            self._decoded(now.workers),
            handled_s < self.search.load.gap.at(rows),
            max([self.alone.noise, *(each.spread for each in finalists)]),
        )

    def plain(self, workers: int) -> Option:
        """TorchServe alone."""
        setting = Setting.whole(self._rows(min(self.alone.rows, self.batch_size), workers), workers)
        # Workers share the cores, which this time keeps busy.
        more_s = self.alone.more_s * setting.batch_size * max(1.0, workers / self.model.cores)
        return self._option(setting, more_s)

    def ours(self, workers: int, *, shares: bool = False) -> Option:
        """Micro-batching, in its best sizes and lanes of those that `auto` chooses from."""
        return max(map(self._option, self.proposals(workers, shares=shares)), key=_rate)

    def proposals(self, workers: int = 1, *, shares: bool = False) -> list[Setting]:
        """The settings with micro-batching that may be best in so many workers."""
        rows = self._rows(self.batch_size, workers)
        found = {
            replace(each, workers=workers, shares=shares or None): None
            for lanes in self._lanes(workers, shares=shares)
            for each in self.model.proposals(rows, lanes)
        }
        return list(found)

    def _decoded(self, workers: int) -> Option | None:
        measured, rows = self.model.measured, self.batch_size
        prepared_s, inferred_s = (measured.whole[at](rows) for at in (PREPROCESS, INFERENCE))
        idle = prepared_s / self.model.cores > inferred_s
        if not (self.memory.devices and self.photos and idle):
            return None
        whole, lanes = ([NOTHING, *curves[1:]] for curves in (measured.whole, measured.lanes))
        faster = replace(self.model, measured=replace(measured, whole=whole, lanes=lanes))
        search = Search(self.search.runner, faster, self.search.load, (), self.search.budget)
        return replace(self, search=search).plain(workers)

    def _option(self, setting: Setting, more_s: float = 0.0) -> Option:
        batch_s = self._batch_s(setting) + more_s
        if self.memory.devices:
            call_s = self.model.measured.whole[INFERENCE](setting.batch_size)
            batch_s = max(batch_s, setting.workers / self.memory.devices * call_s)
        held = self.memory.of_shared if setting.shares else self.memory.of_copies
        return Option(setting, self.search.load.rate(setting, batch_s), held(setting.workers))

    def _batch_s(self, setting: Setting) -> float:
        """Seconds of a batch: measured if it was run, else expected."""
        ran = self.search.trials.get(setting)
        if ran:
            return self.search.load.measured(setting, ran).batch_s
        return self.search.expected(setting).batch_s

    def _rows(self, most: int, workers: int) -> int:
        """The requests that come together."""
        return max(1, min(most, (self.search.load.clients or most) // workers))

    def _lanes(self, workers: int, *, shares: bool) -> Sequence[PerStage[int]]:
        if shares:
            return [ONE_LANE]  # as `auto` has it
        auto = lanes_for(PerStage.of(AUTO), self.model.cores, workers)
        most = self.model.measured.most_lanes
        counts = [counts_up_to(min(*pair)) for pair in zip(auto, most, strict=True)]
        return [PerStage(*each) for each in product(*counts)]


def _rate(option: Option) -> float:
    return option.rate
