"""Errors on their way from the host to a member: types, texts, tracebacks."""

from __future__ import annotations

import threading

import pytest
import torch
from ts.utils.util import PredictionException

from micro_batch_handler.errors import (
    ArenaTooSmall,
    BatchTimeout,
    BodyError,
    ConfigError,
    LengthError,
    StageTimeout,
)
from micro_batch_handler.hosting.remote_errors import HostTraceback, packed, unpacked
from micro_batch_handler.pipeline.device.device_errors import is_out_of_memory


def arrived(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as raised:
        raise error
    return unpacked(packed(raised.value))


class NotAPhotoError(PredictionException):
    """Its constructor wants other arguments than its base."""

    def __init__(self, name, kind):
        super().__init__(f"{name} is {kind}", 415)
        self.name = name


class TooManyBoxesError(MemoryError):
    def __init__(self, boxes, most):
        super().__init__(f"{boxes} of {most}")


class WithLockError(ValueError):
    """It cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()
        self.number = 3


class OfKeyError(WithLockError, KeyError):
    pass


class NotHereError(PredictionException):
    """It can be pickled, and a member that has no device cannot load it."""

    here = True

    def __init__(self, device):
        super().__init__("lost", 418)
        self.device = device


class Device:
    def __reduce__(self):
        return device_here, ()


def device_here():
    if not NotHereError.here:
        raise RuntimeError("no device here")
    return Device()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3),
        KeyError("key"),
        MemoryError("host"),
        torch.OutOfMemoryError("device"),
        PredictionException("no photo", 415),
        PredictionException({"why": "no photo"}, 422),
        NotAPhotoError("a.txt", "text"),
        TooManyBoxesError(3, 2),
        WithLockError("locked"),
        OfKeyError("both"),
        LengthError("inference", 3, 4, "a hint"),
        StageTimeout("inference", 3.5),
        BatchTimeout("inference"),
        BodyError("preprocess", "no JSON"),
        ConfigError("a setting"),
        ArenaTooSmall(3, 2),
        SystemExit(3),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        FileNotFoundError(2, "No such file", "weights.pt"),
        StopIteration(4),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_their_type_and_text(error):
    """Whatever their constructors want, and whether they can be pickled or not."""
    found = arrived(error)

    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    plain = {key: value for key, value in vars(error).items() if isinstance(value, (str, int))}
    assert vars(found).items() >= plain.items()


def test_the_traceback_in_the_host_is_the_cause():
    """It is shown with the error, as far as the line that raised."""
    found = arrived(ValueError("text"))

    assert isinstance(found.__cause__, HostTraceback)
    assert "in the process with the model:\nTraceback" in str(found.__cause__)
    assert "raise error" in str(found.__cause__)
    assert str(found.__cause__).endswith("ValueError: text\n")


@pytest.mark.parametrize("base", [PredictionException, MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("own_text", [False, True])
def test_a_class_that_nobody_can_import_keeps_its_name_and_its_base(base, own_text):
    """So its status is the same as if it had been raised in the member."""

    class LocalError(base):
        if own_text:

            def __str__(self):
                return "own text"

    error = LocalError("no photo", 415) if base is PredictionException else LocalError("no photo")
    found = arrived(error)

    assert type(found).__name__ == "LocalError"
    assert isinstance(found, base)
    assert found.args == error.args
    assert getattr(found, "error_code", None) == getattr(error, "error_code", None)
    assert is_out_of_memory(found) is is_out_of_memory(error)


def test_what_a_member_cannot_load_keeps_its_type_too(monkeypatch):
    """A part of it may need a device or a module that only the host has."""
    data = packed(NotHereError(Device()))
    monkeypatch.setattr(NotHereError, "here", False)

    found = unpacked(data)

    assert type(found).__name__ == "NotHereError"
    assert found.error_code == 418


class OddError(Exception):
    """It raises whenever it is looked at."""

    def __str__(self):
        raise SystemExit(1)

    def __reduce__(self):
        raise KeyboardInterrupt

    @property
    def args(self):
        raise SystemExit(2)


@pytest.mark.parametrize("error", [OddError(), SyntaxError("m", ("f", 1, "x", "text"))])
def test_an_odd_error_arrives(error):
    """Under its name at least."""
    found = unpacked(packed(error))

    assert type(found).__name__ == type(error).__name__
    assert isinstance(found.__cause__, HostTraceback)
