"""Stages in a row: a batch in, outcomes out.

    run(rows, plan)          the caller's thread
      cut                    rows -> micro-batches for the first stage
      lanes of stage 1       call, then hand on what is complete
        regroup              under the run's lock, microseconds
      lanes of stage 2, 3    the same; a failed request skips the stages that are left
    outcomes                 when every request is settled

A batch's state lives in its own `_Run`, so that nothing of one batch can reach another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.pipeline.batches import (
    CUT_AND_JOIN,
    MicroBatch,
    Part,
    Payload,
    PayloadOps,
)
from micro_batch_handler.pipeline.planner import Plan
from micro_batch_handler.pipeline.regroup import Regroup, bounds
from micro_batch_handler.pipeline.stage import LanePool, StageFunction, StageRunner

__all__ = ["Failure", "Outcomes", "Pipeline"]


@dataclass(frozen=True, eq=False)
class Failure:
    """Why some requests have no answer."""

    stage: Stage
    error: BaseException
    indices: Sequence[int]
    """The requests that failed together, as places in the batch."""


@dataclass(frozen=True)
class Outcomes:
    """What each request of a batch ended with, by its place in the batch."""

    answers: list[Any]
    """One entry a request; meaningless where the request failed."""

    failures: dict[int, Failure]


class _Run:
    """One batch on its way through the stages."""

    def __init__(self, rows: list[Any], plan: Plan, tag: Any) -> None:
        self.tag = tag
        self.finished = threading.Event()
        self._rows = rows
        self._plan = plan
        self._lock = threading.Lock()
        self._into = [Regroup(len(rows), plan.sizes[stage]) for stage in STAGES[1:]]
        self._answers: list[Any] = [None] * len(rows)
        self._failures: dict[int, Failure] = {}
        self._unsettled = len(rows)

    def first(self) -> list[MicroBatch]:
        """The micro-batches of the first stage."""
        return [
            MicroBatch(
                range(start, stop), [Part(self._rows[start:stop], stop - start, 0, stop - start)]
            )
            for start, stop in bounds(len(self._rows), self._plan.sizes[STAGES[0]])
        ]

    def accept(
        self, position: int, indices: Sequence[int], result: Payload
    ) -> list[tuple[int, MicroBatch]]:
        """Take a result of the stage at `position`; give back what the next stage can start."""
        with self._lock:
            if position < len(self._into):
                return [
                    (position + 1, batch) for batch in self._into[position].add(indices, result)
                ]
            for index, answer in zip(indices, result, strict=True):
                self._answers[index] = answer
            self._settle(len(indices))
            return []

    def fail(
        self, position: int, indices: Sequence[int], error: BaseException
    ) -> list[tuple[int, MicroBatch]]:
        """These requests end here; give back the micro-batches that waited only for them."""
        failure = Failure(STAGES[position], error, indices)
        with self._lock:
            self._failures.update(dict.fromkeys(indices, failure))
            ready = [
                (later + 1, batch)
                for later in range(position, len(self._into))
                for batch in self._into[later].drop(indices)
            ]
            self._settle(len(indices))
            return ready

    def outcomes(self) -> Outcomes:
        return Outcomes(self._answers, self._failures)

    def _settle(self, requests: int) -> None:
        self._unsettled -= requests
        if not self._unsettled:
            self.finished.set()


class Pipeline:
    """The three stages and their lanes.

    Owns its threads: use it in a `with` statement, or call `close()`. Several threads may call
    `run()` at once.
    """

    def __init__(
        self,
        functions: Mapping[Stage, StageFunction],
        lanes: PerStage[int],
        ops: PayloadOps = CUT_AND_JOIN,
        lane_setup: Callable[[], None] | None = None,
    ) -> None:
        self._stages = [StageRunner(name, functions[name], ops) for name in STAGES]
        # The first inbox is unbounded, since the caller fills it before it waits; the others hold
        # little more than their lanes need, so that a fast stage cannot pile up payloads.
        self._pools = [
            LanePool(name, lanes[name], 2 * lanes[name] if position else 0, lane_setup)
            for position, name in enumerate(STAGES)
        ]
        self._closed = False

    def run(self, rows: list[Any], plan: Plan, tag: Any = None) -> Outcomes:
        """Take a batch through the stages.

        Returns when every request is settled. Never raises what a stage raised: that is in the
        outcomes. A batch that is one micro-batch in every stage runs in the calling thread.

        Args:
            rows: one entry a request.
            plan: the sizes to cut it into.
            tag: handed to every stage function.

        Raises:
            RuntimeError: the pipeline is closed.
        """
        if self._closed:
            raise RuntimeError("this pipeline is closed")
        run = _Run(rows, plan, tag)
        todo = [(0, batch) for batch in run.first()]
        if plan.fits(len(rows)):
            for position, batch in todo:
                todo += self._advance(run, position, batch)
        else:
            self._submit(run, todo)
            run.finished.wait()
        return run.outcomes()

    def close(self) -> None:
        """End all lanes, the first stage's first; a second call does nothing."""
        self._closed = True
        for pool in self._pools:
            pool.close()

    def __enter__(self) -> Pipeline:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        stages = " | ".join(
            f"{stage.name}: {pool.lanes} lanes, {pool.waiting} waiting"
            for stage, pool in zip(self._stages, self._pools, strict=True)
        )
        return f"<Pipeline {stages}>"

    def _submit(self, run: _Run, ready: list[tuple[int, MicroBatch]]) -> None:
        for position, batch in ready:
            self._pools[position].submit(partial(self._work, run, position, batch))

    def _work(self, run: _Run, position: int, batch: MicroBatch) -> None:
        self._submit(run, self._advance(run, position, batch))

    def _advance(self, run: _Run, position: int, batch: MicroBatch) -> list[tuple[int, MicroBatch]]:
        """One call of one stage; gives back the micro-batches that can go on because of it."""
        try:
            result, keep = self._stages[position].call(run.tag, batch)
            if keep is not None:
                keep()
            return run.accept(position, batch.indices, result)
        except BaseException as error:
            return run.fail(position, batch.indices, error)
