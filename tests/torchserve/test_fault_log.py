"""What the worker's log says of failures, by a clock that the tests set."""

from __future__ import annotations

import pytest
from ts.utils.util import PredictionException

from micro_batch_handler.errors import BodyError, DeadlinePassed, LengthError, StageTimeout
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.torchserve.fault_log import EVERY_S, MOST_KINDS, FaultLog
from tests.fakes import fake_context


class Told:
    """A log of failures, and what it has written."""

    def __init__(self, caplog) -> None:
        self.now_s = 100.0
        self.log = FaultLog(lambda: self.now_s)
        self._caplog = caplog
        caplog.set_level("INFO")

    def failed(self, *errors, stage="preprocess", indices=(1,)):
        """One failure for each error."""
        self.log.failed([Failure(stage, error, indices) for error in errors], fake_context(4))

    def batch(self, *retried):
        """A batch without failures."""
        self.log.retried(Outcomes(["a"] * 4, {}, [*retried]), fake_context(4))

    @property
    def lines(self):
        """What was written since the last look."""
        messages = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return messages


@pytest.fixture
def told(caplog):
    return Told(caplog)


def raised(error):
    """The error with the traceback of this very line."""
    try:
        raise error  # noqa: TRY301  (the traceback is what is wanted)
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            BodyError("preprocess", "the body is not valid JSON: Extra data"),
            "answered 400 to requests id-1: preprocess: the body is not valid JSON: Extra data",
        ),
        (PredictionException("no photo", 415), "answered 415 to requests id-1: no photo"),
        (DeadlinePassed("preprocess"), "answered 504 to requests id-1: preprocess: the request's"),
        (StageTimeout("inference", 3), "answered 504 to requests id-1: inference: one call took"),
        (LengthError("inference", 3, 2), "answered 500 to requests id-1: inference: got 3 rows"),
    ],
)
def test_what_its_text_explains_is_one_line(told, error, line):
    """What a client did wrong, and what we find ourselves, needs no traceback."""
    told.failed(raised(error))

    (found,) = told.lines
    assert found.startswith(line)
    assert "\n" not in found


@pytest.mark.parametrize(
    "error", [ValueError("the cause"), PredictionException("the cause", 500), KeyError("the cause")]
)
def test_any_other_failure_has_its_traceback(told, error):
    """One record names the stage, the requests and the line that raised, whatever their number."""
    told.failed(raised(error), indices=(1, 3))

    (found,) = told.lines
    assert found.startswith("preprocess failed for requests id-1, id-3\n  Traceback")
    assert "raise error" in found
    assert "the cause" in found


@pytest.mark.parametrize("kind", [ValueError, lambda text: BodyError("preprocess", text)])
def test_a_burst_is_counted(told, kind):
    """The first is told in full; then a line every ten seconds has the number and the latest."""
    for number in range(1000):
        told.failed(raised(kind(f"text {number}")))
        told.batch()
    assert len(told.lines) == 1

    told.now_s += EVERY_S - 1
    told.failed(raised(kind("text 1000")))
    told.now_s += 1
    told.batch()

    (line,) = told.lines
    assert " 1000 more like that, the latest id-1: " in line
    assert line.endswith("text 1000")
    assert "\n" not in line


def test_a_kind_that_was_away_is_told_in_full_again(told):
    """After ten quiet seconds the next failure is the first of its kind."""
    told.failed(raised(ValueError("a")), raised(ValueError("b")))
    assert len(told.lines) == 1

    told.now_s += EVERY_S
    told.failed(raised(ValueError("c")))

    counted, full = told.lines
    assert "preprocess failed for 1 more like that, the latest id-1" in counted
    assert "  ValueError: c" in full


def test_kinds_are_told_apart(told):
    """Another stage, type or line is another kind; what a text says is none."""
    told.failed(raised(ValueError("a")), ValueError("elsewhere"), raised(KeyError("a")))
    told.failed(raised(ValueError("a")), stage="inference")

    assert len(told.lines) == 4


def test_what_was_counted_is_told_at_the_end(told):
    """A log that is closed leaves nothing out, and does not say it twice."""
    told.failed(*[raised(ValueError("a")) for _ in range(3)])
    told.log.close()
    told.log.close()

    assert [line.partition(" like")[0] for line in told.lines[1:]] == [
        "preprocess failed for 2 more"
    ]


def test_few_kinds_are_remembered(told):
    """Code that is made anew for each request fills no memory: its first kinds are forgotten."""
    kinds = [type(f"Error{number}", (Exception,), {}) for number in range(MOST_KINDS + 1)]
    told.failed(*(kind() for kind in kinds))
    assert len(told.lines) == len(kinds)

    told.failed(kinds[-1]())
    assert told.lines == []
    told.failed(kinds[0]())
    assert len(told.lines) == 1


def test_no_line_of_the_log_can_be_taken_for_a_metric(told):
    """TorchServe reads lines that start with [METRICS]; text from a client must not be one."""
    text = "x\n[METRICS]Fake.Count:1|#Level:Model|#hostname:h,1"
    told.failed(raised(ValueError(text)), raised(PredictionException(text, 422)))
    told.failed(raised(ValueError(text)))
    told.log.close()

    lines = [line for record in told.lines for line in record.splitlines()]
    assert not [line for line in lines if line.startswith("[METRICS]")]


def test_a_fault_that_did_not_repeat_is_in_the_log(told):
    """Nobody failed, and still somebody should know, with ids and traceback."""
    told.batch(Failure("inference", ValueError("flaky"), (1, 2)))

    (line,) = told.lines
    assert "inference failed once, and then answered, for requests id-1, id-2" in line
    assert "ValueError: flaky" in line


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [MuteError(), SyntaxError("m", ("f", 1, "x", "text")), ValueError("\ud800"), SystemExit(3)],
)
def test_any_error_can_be_logged(told, error):
    """An exception that cannot be shown stops no batch, neither in full nor counted."""
    told.failed(error, error)
    told.failed(error)
    told.log.close()

    first, counted = told.lines
    assert type(error).__name__ in first
    assert type(error).__name__ in counted
    (first + counted).encode()
