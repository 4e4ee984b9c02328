"""One batch that a worker serves: what all its calls share."""

from __future__ import annotations

from collections.abc import Sequence

from ts.context import Context

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import SplitError
from micro_batch_handler.torchserve.responses import Response, response_of, set_response
from micro_batch_handler.torchserve.splitting import Splitting

__all__ = ["ServedBatch"]


class ServedBatch:
    """What the calls of one batch read, and whom they tell what they find.

    Args:
        context: of the batch.
        splitting: learns from the calls whether batches may be cut.
        encoded: whether answers are encoded as TorchServe sends them.
        split: whether calls of this batch run beside each other.
    """

    def __init__(
        self, context: Context, splitting: Splitting, *, encoded: bool, split: bool
    ) -> None:
        self.context = context
        self.encoded = encoded
        self.split = split
        self.streamed: set[int] = set()
        """The requests to which parts of an answer were sent."""
        self.over = False
        """Whether the batch has ended. A call that was given up may still go on after that."""
        self.until_s: float | None = None
        """When nobody waits for the model host any more, on the engine's clock; None for never."""
        self._splitting = splitting
        # Where TorchServe is the caller, nobody has set anything yet.
        processors = () if encoded or not split else context.request_processor or ()
        self._before = [response_of(processor) for processor in processors]
        self.watched = splitting.begin(split=split)

    def returned(self, stage: str) -> None:
        """A call has returned.

        Raises:
            SplitError: it changed the handler's state, and the batch is cut.
        """
        if self.watched and stage != STAGES[-1] and not self.over:
            self._splitting.look(stage, split=self.split)

    def changes_state(self) -> bool:
        """Whether the handler's state has changed, now that all calls of a cut batch returned."""
        self.over = True
        if self.split and not self.watched:
            try:
                self._splitting.look("a stage", split=True, all_calls=True)
            except SplitError:
                return True
        return False

    def failed(self) -> None:
        """A call has failed."""
        if not self.over:
            self._splitting.failed()

    def only_whole(self, why: str, *, too_late: bool = False) -> None:
        """Batches stay whole from now on, since the handler does what needs whole batches.

        Args:
            why: for the log.
            too_late: whether the caller is no stage, which an error would stop.

        Raises:
            SplitError: this batch is cut, and it is not too late.
        """
        self._splitting.forbid(why)
        if self.split and not too_late:
            raise SplitError(why)

    def streams(self, indices: Sequence[int]) -> None:
        """The handler may send parts of these requests' answers now."""
        self.only_whole("it sends parts of its answers while it computes")
        self.streamed.update(indices)

    def repeats(self, indices: Sequence[int]) -> bool:
        """Whether calls may be made again for these requests: nothing was sent to their clients."""
        return not (self._splitting.no_repeats or self.streamed.intersection(indices))

    def forget(self) -> None:
        """Set statuses and headers back, since the answers of these calls are not sent."""
        processors = self.context.request_processor or ()
        before = self._before or [Response()] * len(processors)
        for processor, response in zip(processors, before, strict=True):
            set_response(processor, response)
