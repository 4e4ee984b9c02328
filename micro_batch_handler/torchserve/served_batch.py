"""One batch on its way through the stages: what all its calls share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts.context import Context

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import SplitError
from micro_batch_handler.torchserve.splitting import Splitting

__all__ = ["ServedBatch"]

OK = 200


class ServedBatch:
    """What the calls of one batch ask and tell.

    Args:
        context: the batch's.
        splitting: is told what the calls show.
        encoded: whether answers are wanted as TorchServe sends them.
        split: whether other calls run beside each.
    """

    __slots__ = (
        "_before",
        "_splitting",
        "context",
        "encoded",
        "over",
        "split",
        "streamed",
        "watched",
    )

    def __init__(
        self, context: Context, splitting: Splitting, *, encoded: bool, split: bool
    ) -> None:
        self.context = context
        self.encoded = encoded
        self.split = split
        self.streamed: set[int] = set()
        """The requests that have got parts of their answers."""
        self.over = False
        """Whether the batch has ended: a call that was given up may still go on."""
        self._splitting = splitting
        # Where TorchServe is the caller, nobody has set anything yet.
        self._before = None if encoded or not split else _responses(context)
        self.watched = splitting.begin(split=split)

    def returned(self, stage: str) -> None:
        """A call has returned; raises `SplitError` as `Splitting.look` does."""
        if self.watched and stage != STAGES[-1] and not self.over:
            self._splitting.look(stage, split=self.split)

    def changes_state(self) -> bool:
        """Whether calls that have all returned have changed the handler's state, being cut."""
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

    def only_whole(self, why: str) -> None:
        """The handler does what it can do with whole batches only.

        Raises:
            SplitError: this one is cut.
        """
        self._splitting.forbid(why)
        if self.split:
            raise SplitError(why)

    def spoil(self, why: str) -> None:
        """It has done so already, perhaps where no error would be seen."""
        self._splitting.forbid(why)

    def streams(self, indices: Sequence[int]) -> None:
        """The handler is about to send parts of these requests' answers."""
        self.only_whole("it sends parts of its answers while it computes")
        self.streamed.update(indices)

    def repeats(self, indices: Sequence[int]) -> bool:
        """Whether these requests may be called again: their clients have got nothing yet."""
        return not (self._splitting.never_again or self.streamed.intersection(indices))

    def forget(self) -> None:
        """Undo what the calls have set for answers that nobody will get."""
        processors = self.context.request_processor or ()
        before = self._before or [(OK, None, {})] * len(processors)
        for processor, (code, phrase, headers) in zip(processors, before, strict=True):
            processor.report_status(code, phrase)
            processor.get_response_headers().clear()
            processor.get_response_headers().update(headers)

    @staticmethod
    def may_repeat(batch: Any, indices: Sequence[int]) -> bool:
        """The same, as the pipeline asks it."""
        return bool(batch.repeats(indices))


def _responses(context: Context) -> list[tuple[int, str | None, dict[str, str]]]:
    """What is set for the answers to all requests."""
    return [
        (
            processor.get_response_status_code(),
            processor.get_response_status_phrase(),
            dict(processor.get_response_headers()),
        )
        for processor in context.request_processor or ()
    ]
