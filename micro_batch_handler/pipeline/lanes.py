"""The lanes of all stages: what each does next, and who watches it.

run(batch, steps)     the steps go to the inboxes of the lanes that take them
  a lane              executes each, hands on what is complete, does itself what comes back
  the caller          waits, and gives up calls that take too long
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from textwrap import indent

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.pipeline.batch import LAST, Batch, Steps
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.executor import Executor, GivenUp
from micro_batch_handler.pipeline.lane_pool import LanePool
from micro_batch_handler.pipeline.loading_lane import LoadingLane
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.outcomes import Failure
from micro_batch_handler.pipeline.watch import Clock, stacks
from micro_batch_handler.planning.sizes import INFERENCE

__all__ = ["Lanes"]

logger = logging.getLogger(__name__)

MOST_LOST_LANES = 3
"""Lanes that may hang at once. One more would not: the batch ends, and so must the process.

With `stage_timeout` at a quarter of TorchServe's `responseTimeout`, its default, three time-outs
one after the other still end before TorchServe gives up on the worker.
"""

LOADING_POOL = len(STAGES)
"""The place of the loading lane behind the pools of the stages."""


class Lanes:
    """The threads of all stages.

    Args:
        executor: takes micro-batches through stages.
        lanes: of each stage.
        setup: called once in each new lane, with its stage.
        clock: the time.
        unbounded: stages whose calls bound themselves in time.
        one_thread: whether inference must always be called in the same lane.
        loading_lane: takes what passes all stages in one go, if there is one; not closed.
    """

    def __init__(
        self,
        executor: Executor,
        lanes: PerStage[int],
        setup: Callable[[Stage], None] | None,
        clock: Clock,
        *,
        unbounded: Collection[Stage] = (),
        one_thread: bool,
        loading_lane: LoadingLane | None = None,
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._unbounded = unbounded
        self._one_thread = one_thread
        self._lanes = [lanes[stage] for stage in STAGES]
        # The first inbox is unbounded, since the caller fills it before it waits; the others hold
        # little more than their lanes need, so that a fast stage cannot pile up payloads.
        self._pools = [
            LanePool(
                name,
                lanes[name],
                2 * lanes[name] if position else None,
                None if setup is None else partial(setup, name),
            )
            for position, name in enumerate(STAGES)
        ]
        self._loading_lane = None if one_thread else loading_lane
        self._takers = [*self._pools, *([] if self._loading_lane is None else [self._loading_lane])]
        """The pools, and behind them the loading lane."""
        self.lost_loading_lane = False
        """Whether a call in it took too long; no other thread can stand in for it."""

    @property
    def lost(self) -> int:
        """Lanes that were replaced and still hang."""
        return sum(pool.lost for pool in self._takers)

    def close(self) -> None:
        """End all lanes but those that hang, the first stage's first; may be called again."""
        for pool in self._pools:
            pool.close()

    def __str__(self) -> str:
        return " | ".join(
            f"{stage}: {pool.lanes} lanes, {pool.waiting} waiting"
            for stage, pool in zip(STAGES, self._pools, strict=True)
        )

    def run(self, batch: Batch, steps: Steps, timeout_s: float | None) -> None:
        """Let the lanes do these steps and all that follows; return when all requests are settled.

        As many lanes of each stage work as the batch wants. Of two batches at once, the later
        decides for both.

        Args:
            batch: whose steps they are.
            steps: to begin with.
            timeout_s: the longest that one call may take; None for any time.
        """
        batch.expect_lanes()
        wanted = batch.plan.lanes if batch.plan else ()
        for pool, lanes in zip(self._pools, wanted or self._lanes, strict=True):
            pool.use(lanes)
        self._hand_on(batch, steps)
        self._wait(batch, timeout_s)

    def run_in_one(
        self, batch: Batch, micro_batches: Sequence[MicroBatch], timeout_s: float | None
    ) -> None:
        """Let one lane take these through all stages, one after the other; else as `run`."""
        batch.expect_lanes()
        pool = self._pool_for(LAST, micro_batches[0])
        task = partial(self._work, batch, LAST, pool, [*micro_batches[::-1]])
        self._takers[pool].submit(task)
        self._wait(batch, timeout_s)

    def _hand_on(
        self, batch: Batch, steps: Steps, position: int | None = None, pool: int | None = None
    ) -> list[MicroBatch]:
        """Give steps to the lanes that take them.

        Returns:
            What a lane of this pool that works for the stage at `position` does next itself.
        """
        own = []
        now_s = self._clock.now_s() if steps else 0.0
        for at, micro_batch in steps:
            taker = self._pool_for(at, micro_batch)
            if (at, taker) == (position, pool):
                own.append(micro_batch)
                continue
            micro_batch.ready_s = now_s
            task = partial(self._work, batch, at, taker, [micro_batch])
            self._takers[taker].submit(task, wait=taker == at)
        return own

    def _pool_for(self, position: int, micro_batch: MicroBatch) -> int:
        """The pool whose lanes take a micro-batch through the stage at `position`: mostly its own.

        Where inference belongs to one thread, what starts again before it does so there.
        """
        if micro_batch.serial and self._loading_lane is not None:
            return LOADING_POOL
        moves = self._one_thread and position > INFERENCE and not micro_batch.parts
        return INFERENCE if moves else position

    def _work(
        self,
        batch: Batch,
        position: int,
        pool: int,
        todo: list[MicroBatch],
        steps: Steps | None = None,
    ) -> bool:
        """What a lane does: hand on `steps`, then take `todo`, the last first, through a stage.

        False if the lane was given up meanwhile.
        """
        batch.enter()
        try:
            if steps:
                self._hand_on(batch, steps)
                steps.clear()  # the task, which holds it, lives as long as this lane works
            while todo and not batch.stopped:
                # No name of this frame may hold a micro-batch: its payload would stay in memory
                # during the next call.
                after = self._executor.execute(batch, position, todo.pop(), todo)
                todo += reversed(self._hand_on(batch, after, position, pool))
                del after
        except GivenUp:
            return False  # `_give_up` has called `batch.leave()` for this lane
        except BaseException as error:
            # A fault of ours, then: nobody may wait for this lane.
            batch.stop(STAGES[position], error)
        batch.leave()
        return True

    def _wait(self, batch: Batch, timeout_s: float | None) -> None:
        """Wait for the batch; meanwhile give up calls that take longer than `timeout_s`."""
        finished = batch.expect_lanes()
        while not self._clock.wait(finished, self._next_look_s(batch, timeout_s)):
            now_s = self._clock.now_s()
            if timeout_s is not None:
                self._give_up_late(batch, now_s, timeout_s)

    def _give_up_late(self, batch: Batch, now_s: float, timeout_s: float) -> None:
        # Not in the loop that waits, which would hold the last call with all that it took in.
        for call in batch.running():
            if now_s >= call.began_s + timeout_s and call.stage not in self._unbounded:
                self._give_up(batch, call, timeout_s)

    def _next_look_s(self, batch: Batch, timeout_s: float | None) -> float | None:
        """The moment at which the first call may take too long; None for never."""
        if timeout_s is None:
            return None
        # A call that begins later than now ends later than this.
        began_s = (call.began_s for call in batch.running() if call.stage not in self._unbounded)
        return timeout_s + min([self._clock.now_s(), *began_s])

    def _give_up(self, batch: Batch, call: Call, timeout_s: float) -> None:
        """Answer the requests of a call that hangs, and let a new lane do the rest of its work."""
        doing = stacks()
        if not self._executor.end(batch, call, failed=True):
            return  # it has just returned
        error = StageTimeout(call.stage, timeout_s)
        logger.error("%s; its lane is replaced. What the lanes do:\n%s", error, indent(doing, "  "))
        batch.leave()
        steps = batch.fail(call.position, Failure(call.stage, error, call.micro_batch.indices))
        # The new lane also hands on what this frees: here, a full inbox would stop the watch.
        pool = next(at for at, pool in enumerate(self._takers) if call.thread in pool)
        task = partial(self._work, batch, call.position, pool, call.rest, steps)
        self._takers[pool].replace(call.thread, task)
        self.lost_loading_lane |= pool == LOADING_POOL
        if self.lost >= MOST_LOST_LANES:
            batch.stop(call.stage, error, fatal=True)
