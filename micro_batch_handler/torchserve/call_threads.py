"""PyTorch's threads inside the calls of a worker, while other workers come and go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch

from micro_batch_handler.config import PerStage, Stage, Threads
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.thread_state import ThreadState, use_threads
from micro_batch_handler.planning.cores import IntraOpThreads, share_of
from micro_batch_handler.torchserve.resources import share_interpreter

__all__ = ["CallThreads"]

logger = logging.getLogger(__name__)

RECOUNT_S = 5.0
"""Counting takes some milliseconds on a machine with a thousand processes."""


class CallThreads:
    """How many threads PyTorch uses inside calls: as many as fall to this worker now.

    Workers share the cores. With more threads than cores, threads wait, busy, for those that have
    none: two workers with two threads each were ten times slower on two cores than with one each.
    `auto` gives no more than the handler has set, if it has set them.

    It is made in the thread that calls whole batches.

    Args:
        wanted: inside the calls of each stage.
        lanes: of each stage.
        cores: that all workers share.
        workers: counts them.
        now_s: the time.
    """

    def __init__(
        self,
        wanted: PerStage[Threads],
        lanes: PerStage[int],
        cores: int,
        workers: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._lanes = lanes
        self._cores = cores
        self._workers = workers
        self._now_s = now_s
        self._given = torch.get_num_threads()
        self._own = threading.local()
        """`stage` of a lane, None where whole batches are called; and the `count` set there."""
        self._own.stage = None
        self._recounted_s = now_s()
        self._known = workers()
        self.now = self._shared_out()
        """Those that are in force."""
        self._tell()
        self.use()

    def recount(self) -> None:
        """Before a batch: share the cores anew if workers have come or gone."""
        if self._now_s() < self._recounted_s + RECOUNT_S:
            return
        self._recounted_s = self._now_s()
        workers = self._workers()
        if workers != self._known:
            self._known = workers
            self.now = self._shared_out()
            self._tell()

    def use(self) -> None:
        """Before a call, in its thread. In a thread that is no lane nothing is changed."""
        if not hasattr(self._own, "stage"):
            return
        stage = self._own.stage
        count = self.now.whole if stage is None else self.now.lanes[stage]
        if count != getattr(self._own, "count", None):
            use_threads(count)  # in the thread itself, since PyTorch keeps the number for each
            self._own.count = count

    def lane_setup(self, device: Accelerator | None) -> Callable[[Stage], None]:
        """A function that prepares the thread of a lane as this one is."""
        state = ThreadState.capture(device.device.type if device else None)
        share_interpreter()

        def setup(stage: Stage) -> None:
            state.apply()
            self._own.stage = stage
            self.use()

        return setup

    def _shared_out(self) -> IntraOpThreads:
        share = share_of(self._cores, self._known)
        return IntraOpThreads.of(self._wanted, self._lanes, share, min(self._given, share))

    def _tell(self) -> None:
        logger.info(
            "threads of PyTorch in each lane %s, whole batches %d, since workers are %d",
            *(self.now.lanes, self.now.whole, self._known),
        )
