"""Whether a handler's batches may be cut: one switch, and the reasons that throw it.

    it keeps state between stages         its class shows it; or its attributes change meanwhile
    its payloads are no rows              failure_history.py
    it works in one thread only           failure_history.py
    it sends parts of answers             it asks for TorchServe's connection

From then on whole batches pass all stages in the worker's thread, one after the other, as
TorchServe would call them. A fault still costs one request: a batch that fails passes in parts, one
after the other. A handler that stands one row a call is still cut, into single rows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.errors import SplitError
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.pipeline.regroup import bounds
from micro_batch_handler.torchserve.failure_history import FailureHistory
from micro_batch_handler.torchserve.state_watch import StateWatch

__all__ = ["Splitting"]

logger = logging.getLogger(__name__)

HAND_ON = (
    "so the rows of one micro-batch may get what belongs to another. Hand it on with the rows "
    "instead: return (images, sizes) from preprocess, and sizes again from inference. If the "
    "stages may share it, say thread_safe = True in the class"
)

UNCHANGED_BATCHES = 3
"""Whole batches without a change of state before batches are cut, if reading the class leaves
doubts or state has changed. What is loaded at the first request changes once."""

MOST_CHANGES = 3
"""Cut batches in which one attribute changes before batches stay whole; two of whole ones."""

FORGOTTEN_AFTER = 100
"""Batches without a change after which earlier changes are forgotten: something was refreshed."""


class Splitting:
    """The switch of one handler.

    Args:
        name: of the handler, for the log.
        watch: sees changes of its state; None where no state can matter.
        one_row: whether no call may have more than one row.
        doubtful: whether its first batches stay whole, until some of them change no state.
        scratch: for each stage, the attributes that a call sets and reads again.
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
        """Why batches stay whole; empty while they may be cut."""
        self._scratch = scratch or {}
        self._keeps_state = False
        self.no_repeats = False
        """Whether no call may be made again for some rows of a batch."""
        self._undoes = False
        self._failures = FailureHistory(one_row=one_row)
        self._changes: Counter[str] = Counter()
        self._changed_now: set[str] = set()
        self._unchanged = 0
        self._unchanged_whole = 0 if doubtful else UNCHANGED_BATCHES

    @property
    def one_row(self) -> bool:
        """Whether no call may have more than one row."""
        return self._failures.one_row

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
        """The rows of each call of a batch that stays whole; empty if the batch may be cut.

        Called once for each batch.
        """
        self._failures.count(rows)
        may_cut = self._unchanged_whole >= UNCHANGED_BATCHES and not self._failures.try_whole
        return [] if may_cut and not self.why_whole else self.whole(rows)

    def whole(self, rows: int) -> list[range]:
        """The rows of each call of a batch that is not cut."""
        return [range(*limit) for limit in bounds(rows, 1 if self.one_row else rows)]

    def begin(self, *, split: bool) -> bool:
        """A batch begins; returns whether to look for changes of state after each of its calls.

        After many batches without a change, looking when the batch has ended is enough.
        """
        watched = self._keeps_state or (
            not self.why_whole and (split or self._unchanged_whole < UNCHANGED_BATCHES)
        )
        self._undoes = watched and not split
        self._changed_now.clear()
        self._unchanged += 1
        if self._unchanged > FORGOTTEN_AFTER:
            self._changes.clear()
        if self._watch is None or not watched:
            return False
        self._watch.begin()
        self._unchanged_whole += not split
        return not (self._keeps_state or (split and self._unchanged > FORGOTTEN_AFTER))

    def failed(self) -> None:
        """A call has failed: what it added to the handler's lists and dicts is taken out again."""
        if self._watch is not None and self._undoes:
            self._watch.restore()

    def forbid_state(self, why: str, *, of_batch: bool = False) -> None:
        """Batches stay whole from now on, since the handler keeps state between its stages.

        Args:
            why: names that state.
            of_batch: whether it is stored before the stages, for all rows. No call is made again
                for some of the rows then.
        """
        self._keeps_state = True
        self.no_repeats = of_batch
        self.forbid(f"{why}, {HAND_ON}")

    def look(self, stage: str, *, split: bool, all_calls: bool = False) -> None:
        """A call of a stage has returned, or all have.

        Raises:
            SplitError: they changed the handler's state, beside calls on other rows.
        """
        name = "" if self._watch is None else self._watch.changed(loading=not all_calls)
        if not name:
            return
        self._unchanged_whole = self._unchanged = 0
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
        """A batch has ended; see `FailureHistory.learn`."""
        before = self.one_row
        why = self._failures.learn(record, split=split, probe=probe, unread=unread)
        if self.one_row and not before:
            logger.warning(
                "%s fails whenever a call has several rows, and answers each row alone: it is "
                "called with one row at a time from now on. Let it take all rows of its argument, "
                "and calls are shared",
                self._name,
            )
        if why:
            self.forbid(why)
