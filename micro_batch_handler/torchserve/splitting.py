"""Whether a handler's batches may be cut: what forbids it is found or learned, and said once.

    it keeps state between stages         read in its class; or its attributes change meanwhile
    its payloads are no rows              more or fewer came out than went in, and all was well
    it works in one thread only           rows fail in lanes, and pass where it was loaded
    it sends parts of answers             it asks for TorchServe's connection
    it stands one row a call              all calls on several fail, and each row alone passes

Then whole batches pass all stages in the worker's thread, one after the other, as TorchServe would
call them. A fault still costs one request: parts of such a batch pass all stages in turn.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Collection, Mapping

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.errors import SplitError
from micro_batch_handler.pipeline.device.device_errors import is_out_of_memory
from micro_batch_handler.pipeline.outcomes import BatchRecord, Outcomes
from micro_batch_handler.pipeline.recovery import is_misread
from micro_batch_handler.pipeline.regroup import bounds
from micro_batch_handler.torchserve.state_watch import StateWatch

__all__ = ["Splitting"]

logger = logging.getLogger(__name__)

HAND_ON = (
    "so the rows of one micro-batch may get what belongs to another. Hand it on with the rows "
    "instead: return (images, sizes) from preprocess, and sizes again from inference. If the "
    "stages may share it, say thread_safe = True in the class"
)

THREAD_BOUND = (
    "%d requests failed in its lanes and were answered in the worker's thread, where it was "
    "loaded. What belongs to one thread (an event loop, a connection, a device's context) must be "
    "made in the thread that uses it"
)

RESCUED_BATCHES = 3
"""Batches with rows that failed in lanes and passed in the worker's thread, before all rows stay
there: what they ask may be out of order for a while."""

RESCUED_SHARE = 0.05
"""Of all rows meanwhile. If they are rarer, it is chance."""

ONE_ROW_BATCHES = 2
"""Batches in which every call on several rows fails and each row alone passes."""

CALM_BATCHES = 3
"""Whole batches without a change of state before batches are cut, where reading the class leaves
doubts, or state has changed: what is loaded at the first request changes once."""

MOST_CHANGES = 3
"""Batches in which one attribute has changed before batches stay whole; of batches that are not
cut, two are enough."""

QUIET_BATCHES = 100
"""Batches without a change after which the earlier ones are forgotten: something is refreshed."""

FAILED_BATCHES = 3
"""Batches in a row that were cut and failed, with calls not repeated, before one is not cut."""


class Splitting:
    """What is known of one handler.

    Args:
        name: of the handler, for the log.
        watch: sees changes of its state; None where no state can matter.
        one_row: whether no call may have more than one row.
        doubtful: whether its first batches must stay whole, until its state is seen to be calm.
    """

    def __init__(
        self,
        name: str,
        watch: StateWatch | None = None,
        *,
        one_row: bool = False,
        doubtful: bool = False,
        scratch: Mapping[Stage, Collection[str]] | None = None,
    ) -> None:
        self._name = name
        self._watch = watch
        self.why_whole = ""
        """What forbids to cut batches; nothing if they may be cut."""
        self._scratch = scratch or {}
        self._keeps_state = False
        self.never_again = False
        """Whether no call may be made again for some rows of a batch."""
        self._undoes = False
        self.one_row = one_row
        """Whether no call may have more than one row."""
        self._one_row_batches = 0
        self._rows = 0
        self._rescued: deque[tuple[int, int]] = deque(maxlen=RESCUED_BATCHES)
        self._failed_batches = 0
        self._changes: Counter[str] = Counter()
        self._changed_now: set[str] = set()
        self._quiet = 0
        self._calm = 0 if doubtful else CALM_BATCHES

    @property
    def shares_state(self) -> bool:
        """Whether a call that goes on after its time may change what later calls read."""
        return self._keeps_state or any(self._scratch.values())

    def forbid(self, why: str) -> None:
        """Batches stay whole from now on."""
        if not self.why_whole:
            self.why_whole = why
            if self._watch is not None and not self._keeps_state:
                self._watch.forget()
            logger.warning(
                "%s is called with whole batches, in the worker's thread and with nothing beside "
                "it: %s",
                self._name,
                why,
            )

    def lanes(self, wanted: PerStage[int]) -> PerStage[int]:
        """The lanes of each stage: one where two calls would overwrite what they keep on `self`."""
        lanes = {stage: wanted[stage] for stage in STAGES}
        for stage, names in self._scratch.items():
            if names and wanted[stage] > 1:
                lanes[stage] = 1
                logger.warning(
                    "%s gets one lane for %s instead of %d: each call sets %s and reads it again. "
                    "Keep it in a local name and hand it on as an argument",
                    self._name,
                    stage,
                    wanted[stage],
                    ", ".join(sorted(names)),
                )
        return PerStage(**lanes)

    def groups(self, rows: int) -> list[range]:
        """The rows that pass all stages together, one group after the other; none if all is free.

        Called once for each batch.
        """
        self._rows += rows
        calm = self._calm >= CALM_BATCHES and self._failed_batches < FAILED_BATCHES
        return [] if calm and not self.why_whole else self.whole(rows)

    def whole(self, rows: int) -> list[range]:
        """The groups of a batch that is not cut."""
        return [range(*limit) for limit in bounds(rows, 1 if self.one_row else rows)]

    def begin(self, *, split: bool) -> bool:
        """A batch begins; whether to look for changes of state after each of its calls.

        After many batches without any, looking when the batch has ended is enough.
        """
        watched = self._keeps_state or (not self.why_whole and (split or self._calm < CALM_BATCHES))
        self._undoes = watched and not split
        self._changed_now.clear()
        self._quiet += 1
        if self._quiet > QUIET_BATCHES:
            self._changes.clear()
        if self._watch is None or not watched:
            return False
        self._watch.begin()
        self._calm += not split
        return not (self._keeps_state or (split and self._quiet > QUIET_BATCHES))

    def failed(self) -> None:
        """A call has failed, and what it has left in the handler's state is not for the next."""
        if self._watch is not None and self._undoes:
            self._watch.restore()

    def forbid_state(self, why: str, *, of_batch: bool = False) -> None:
        """Batches stay whole from now on, since the handler keeps state between its stages.

        Args:
            why: what it keeps.
            of_batch: whether that is made before the stages, for all rows: then no call may be
                made again for some of them.
        """
        self._keeps_state = True
        self.never_again = of_batch
        self.forbid(f"{why}, {HAND_ON}")

    def look(self, stage: str, *, split: bool, all_calls: bool = False) -> None:
        """A call of a stage has returned, or all have.

        Raises:
            SplitError: they changed the handler's state, beside calls on other rows.
        """
        name = "" if self._watch is None else self._watch.changed(loading=not all_calls)
        if not name:
            return
        self._calm = self._quiet = 0
        self._changes[name] += name not in self._changed_now
        self._changed_now.add(name)
        why = f"{name} changed while {stage} ran"
        if self._changes[name] >= (MOST_CHANGES if split else 2):
            self.forbid_state(why)
        if split:
            raise SplitError(why)

    def learn(
        self, record: BatchRecord, *, split: bool, probe: bool = False, unread: bool = False
    ) -> None:
        """A batch has ended.

        Args:
            record: of it.
            split: whether other calls ran beside each of its calls.
            probe: whether its calls had more rows than they are to have.
            unread: whether it has shown that payloads are no rows; sizes after it need none.
        """
        outcomes = record.outcomes
        if not (outcomes.retried or outcomes.rescued or self._failed_batches or outcomes.stopped):
            return  # nothing has failed
        misread = [f for f in outcomes.rescued if is_misread(f.error)]
        # Else it was not the cut that made a call fail: each row alone is a cut, too.
        uncut = any(
            call.stage == STAGES[-1] and not call.failed and len(call.indices) > 1
            for call in outcomes.calls
        )
        if misread and not unread and (uncut or all(len(f.indices) == 1 for f in misread)):
            self.forbid(
                f"{misread[0].error}; uncut, such batches are answered. Return one row for each "
                f"request, or override cut_payload and join_payloads"
            )
        rescued = [
            failure
            for failure in outcomes.rescued
            if failure not in misread and not is_out_of_memory(failure.error)
        ]
        self._rescue(record.rows, sum(len(failure.indices) for failure in rescued))
        if not rescued and not probe:  # else calls have failed because of the lanes, or of us
            self._learn_one_row(outcomes)
        if not split and not outcomes.failures and self._failed_batches >= FAILED_BATCHES:
            self.forbid(THREAD_BOUND % record.rows)
        self._failed_batches = self._failed_batches + 1 if split and outcomes.stopped else 0

    def _rescue(self, rows: int, rescued: int) -> None:
        if not rescued:
            return
        self._rescued.append((self._rows - rows, rescued))
        since, most = self._rescued[0][0], sum(count for _, count in self._rescued)
        if len(self._rescued) == RESCUED_BATCHES and most >= RESCUED_SHARE * (self._rows - since):
            self.forbid(THREAD_BOUND % most)

    def _learn_one_row(self, outcomes: Outcomes) -> None:
        if self.one_row or outcomes.failures or not any(call.failed for call in outcomes.calls):
            return
        several = [call for call in outcomes.calls if len(call.indices) > 1]
        good = {call.stage for call in several if not call.failed}
        bad = Counter(call.stage for call in several if call.failed)
        fail = any(calls > 1 and stage not in good for stage, calls in bad.items())
        self._one_row_batches = self._one_row_batches + 1 if fail else 0
        if self._one_row_batches == ONE_ROW_BATCHES:
            self.one_row = True
            logger.warning(
                "%s fails whenever a call has several rows, and answers each row alone: it is "
                "called with one row at a time from now on. Let it take all rows of its argument, "
                "and calls are shared",
                self._name,
            )
