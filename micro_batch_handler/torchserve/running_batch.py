"""One batch on its way through the stages: what all its calls share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts.context import Context

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import SplitError
from micro_batch_handler.torchserve.splitting import Splitting

__all__ = ["RunningBatch"]


class RunningBatch:
    """What the calls of one batch ask and tell.

    Args:
        context: the batch's.
        splitting: is told what the calls show.
        encoded: whether answers are wanted as TorchServe sends them.
        split: whether other calls run beside each.
    """

    __slots__ = ("_splitting", "context", "encoded", "split", "streamed", "watched")

    def __init__(
        self, context: Context, splitting: Splitting, *, encoded: bool, split: bool
    ) -> None:
        self.context = context
        self.encoded = encoded
        self.split = split
        self.streamed: set[int] = set()
        """The requests that have got parts of their answers."""
        self._splitting = splitting
        self.watched = splitting.begin(split=split)

    def returned(self, stage: str) -> None:
        """A call has returned; raises `SplitError` as `Splitting.look` does."""
        if self.watched and stage != STAGES[-1]:
            self._splitting.look(stage, split=self.split)

    def failed(self) -> None:
        """A call has failed."""
        self._splitting.failed()

    def only_whole(self, why: str) -> None:
        """The handler does what it can do with whole batches only.

        Raises:
            SplitError: this one is cut.
        """
        self._splitting.forbid(why)
        if self.split:
            raise SplitError(why)

    def streams(self, indices: Sequence[int]) -> None:
        """The handler is about to send parts of these requests' answers."""
        self.only_whole("it sends parts of its answers while it computes")
        self.streamed.update(indices)

    def repeats(self, indices: Sequence[int]) -> bool:
        """Whether these requests may be called again: their clients have got nothing yet."""
        return not (self._splitting.never_again or self.streamed.intersection(indices))

    def forget(self) -> None:
        """Undo what the calls have set for answers that nobody will get."""
        for index in range(len(self.context.request_processor or ())):
            self.context.get_response_headers(index).clear()
            self.context.set_response_status(200, None, index)

    @staticmethod
    def may_repeat(batch: Any, indices: Sequence[int]) -> bool:
        """The same, as the pipeline asks it."""
        return bool(batch.repeats(indices))
