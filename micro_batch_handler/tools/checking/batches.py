"""All requests in one batch, whole and cut in several ways, compared with their answers alone.

Answers that differ when the batch is cut, but not when it is whole, fail the check. Answers that
differ when it is whole come from the handler's own way with batches, and are noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from micro_batch_handler.tools.checking.alone import Alone, CheckError
from micro_batch_handler.tools.checking.answers import Answer, cause, is_same
from micro_batch_handler.tools.checking.ways import Settings, Way

__all__ = ["Batches"]

_ROUNDS = 5
"""Batches in each way: the first ones may stay whole, while the package looks for state."""

_ALONE_AGAIN = 3
"""How often a request is asked alone again when its answer differs: it may not be steady."""


@dataclass
class Batches:
    """Asks all requests at once."""

    alone: Alone
    """The model, and what each request gets alone."""
    settings: Settings | None
    """The handler's; None if it does not micro-batch."""
    tell: Callable[[str], object]
    """Takes the words for what is about to be asked."""
    done: list[str] = field(default_factory=list)
    """The ways in which they were asked."""
    skipped: list[str] = field(default_factory=list)
    """The ways for which there was no time."""
    differs: str = ""
    """How an answer differs in a whole batch; empty if none does."""
    unknown: str = ""
    """Why the handler's settings could not be changed; empty if they could."""

    def __post_init__(self) -> None:
        self._model = self.alone.model
        self._rows = len(self.alone.answers)
        self._whole: list[Answer] = []

    def run(self) -> None:
        """Ask in all ways for which there is time.

        Raises:
            CheckError: answers differ when the batch is cut.
        """
        if self._rows == 1 or not self._has_time("batches"):
            return
        self.alone.again(range(self._rows))
        properties = self._model.service.context.system_properties
        given = properties.get("batch_size")
        properties["batch_size"] = max(given or 1, self._rows)
        try:
            if self.settings is None:
                self._ask_whole("in one batch", self._rows)
            else:
                self._ask_ways(self.settings)
        finally:
            properties["batch_size"] = given

    def _ask_ways(self, settings: Settings) -> None:
        most = settings.most(self._rows)
        # The package would warn that nothing overlaps in a whole batch.
        self._model.log.keeps_warnings = False
        try:
            settings.apply(settings.whole(most))
        except Exception as error:
            self.unknown = cause(error)
            return
        self._ask_whole("whole" if most == self._rows else f"in batches of {most}", most)
        self._model.log.keeps_warnings = True
        ways = settings.ways(self._rows)
        for left, way in zip(range(len(ways), 0, -1), ways, strict=True):
            settings.apply(way)
            self._ask_cut(way, self._model.left_s() / left)

    def _ask_whole(self, name: str, most: int) -> None:
        if not self._has_time(name):
            return
        self.tell(f"all requests {name}")
        starts = range(0, self._rows, most)
        parts = [range(start, min(start + most, self._rows)) for start in starts]
        answers = [answer for part in parts for answer in self._model.ask(part)]
        if self._model.has_refused_settings():
            return
        self.done.append(name)
        different = self._different(answers)
        self._whole = answers
        if different:
            at = different[0]
            self.differs = f"{name}, {self._what(at, answers)}, alone {self.alone.answers[at]}"

    def _ask_cut(self, way: Way, share_s: float) -> None:
        if not self._has_time(way.name):
            return
        self.tell(f"all requests {way.name}")
        before_s = self._model.left_s()
        for turn in range(1, _ROUNDS + 1):
            answers = self._model.ask(range(self._rows))
            if self._model.has_refused_settings():
                return
            self._compare(way, answers)
            if (before_s - self._model.left_s()) * (turn + 1) / turn > share_s:
                break
        self.done.append(way.name)

    def _compare(self, way: Way, answers: Sequence[Answer]) -> None:
        for at in self._different(answers):
            known, loose = self._known(at), at in self.alone.unsteady
            alone, whole = known[0], known[-1]
            if len(known) == 1:
                came = f"alone {alone}"
            elif is_same(alone, whole, loose=loose):
                came = f"alone and in an uncut batch {alone}"
            elif any(is_same(one, answers[at], loose=True) for one in known):
                continue  # it differs with the batch, and may do so again
            else:
                came = f"alone {alone}, in an uncut batch {whole}"
            raise CheckError(f"{way.name}, {self._what(at, answers)}, {came}. {way.advice}")

    def _different(self, answers: Sequence[Answer]) -> list[int]:
        """The places of answers that came neither alone nor in a whole batch."""
        different = [at for at, answer in enumerate(answers) if not self._is_known(at, answer)]
        # An answer may depend on the time. That does not excuse a bad one.
        doubted = [at for at in different if not answers[at].problem]
        self.alone.again(doubted, _ALONE_AGAIN)
        return [at for at in different if not self._is_known(at, answers[at])]

    def _is_known(self, at: int, answer: Answer) -> bool:
        loose = at in self.alone.unsteady
        return any(is_same(one, answer, loose=loose) for one in self._known(at))

    def _known(self, at: int) -> list[Answer]:
        """The answers that a request got alone and, if it was in one, in a whole batch."""
        return [self.alone.answers[at], *self._whole[at : at + 1]]

    def _what(self, at: int, answers: Sequence[Answer]) -> str:
        sample = self._model.samples[at].name
        return f"the answer to request {at + 1} of {self._rows} ({sample}) is {answers[at]}"

    def _has_time(self, name: str) -> bool:
        if self.alone.seconds > self._model.left_s():
            self.skipped.append(name)
            return False
        return True
