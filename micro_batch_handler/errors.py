"""The errors that this package raises by itself.

    MicroBatchError
    ├── ConfigError (RuntimeError)    a setting cannot work; found when the model loads
    ├── ArchiveError                  an archive cannot be built or checked; raised by the tools
    ├── SplitError                    a handler cannot work on a part of a batch
    ├── TraceError                    a trace cannot be read or drawn; raised by the tools
    ├── ArenaTooSmall (MemoryError)   a call's payload is larger than the shared memory for it
    └── StageError                    a stage broke its contract; the outcome of its requests
        ├── LengthError (ValueError)  a stage got k rows and returned another number
        ├── PayloadError (TypeError)  a payload cannot be cut or joined as the plan needs it
        │   └── RegroupError          rows cannot be joined for a stage, which is not called
        ├── BodyError (ValueError)    a request's body does not match its content type
        ├── StageTimeout (TimeoutError)   one call of a stage took too long
        │   └── BatchTimeout              failed calls left no time for another
        ├── DeadlinePassed (TimeoutError) the client no longer waits for the answer
        ├── HostLost                      the process with the model ended during a call
        └── HostMissing                   there was no process with the model in time

What a user's own code raises is never wrapped, since TorchServe maps exceptions by their type.
TorchServe answers 507 if a message contains the GPU platform's name in capitals, so no message here
may contain it.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArchiveError",
    "ArenaTooSmall",
    "BatchTimeout",
    "BodyError",
    "ConfigError",
    "DeadlinePassed",
    "HostLost",
    "HostMissing",
    "LengthError",
    "MicroBatchError",
    "PayloadError",
    "RegroupError",
    "SplitError",
    "StageError",
    "StageTimeout",
    "TraceError",
]


class MicroBatchError(Exception):
    """The base of every error this package raises by itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are made again from their text alone, which most of these cannot be.
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[MicroBatchError], args: tuple[Any, ...], values: dict[str, Any]
) -> MicroBatchError:
    # Python refuses MemoryError's own for a class that derives from it in the second place only.
    make = Exception.__new__ if issubclass(kind, MemoryError) else kind.__new__
    error = make(kind, *args)
    error.args = args
    vars(error).update(values)
    return error


class ConfigError(MicroBatchError, RuntimeError):
    """A setting cannot work.

    A `RuntimeError`, because TorchServe turns only that (and `MemoryError`) into a clean load
    failure; anything else kills the worker without an answer.
    """


class ArchiveError(MicroBatchError):
    """An archive cannot be built or checked; the message says what to change."""


class TraceError(MicroBatchError):
    """A trace cannot be read or drawn; the message says what to change."""


class ArenaTooSmall(MicroBatchError, MemoryError):  # noqa: N818  (named for its cause)
    """The payload of a call is larger than all the memory that a worker shares with its host."""

    def __init__(self, needed_bytes: int, space_bytes: int) -> None:
        super().__init__(
            f"the payload of a call takes {needed_bytes} bytes ({needed_bytes / 1e6:.1f} MB), but "
            f"the memory shared with the process that has the model has {space_bytes} bytes "
            f"({space_bytes / 1e6:.1f} MB): raise micro_batching.device.pinned_bytes or lower "
            "micro_batch_size"
        )
        self.needed_bytes = needed_bytes
        self.space_bytes = space_bytes


class StageError(MicroBatchError):
    """A stage broke the contract of `MicroBatchHandler`; `stage` is its name."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage


class LengthError(StageError, ValueError):
    """A stage got `expected` rows and returned `found`."""

    def __init__(self, stage: str, expected: int, found: int, hint: str = "") -> None:
        text = f"got {expected} rows but returned {found}"
        super().__init__(stage, f"{text}; {hint}" if hint else text)
        self.expected = expected
        self.found = found


class PayloadError(StageError, TypeError):
    """The output of a stage cannot be cut or joined to the size that the next stage needs."""


class RegroupError(PayloadError):
    """Rows cannot be joined for a stage, so the stage was not called."""


class SplitError(MicroBatchError):
    """A handler did something with a part of a batch that it can only do with the whole.

    No client sees this: the batch runs again whole, and later batches stay whole.
    """


class BodyError(StageError, ValueError):
    """A request's body does not match its content type; no stage was called with it."""


class StageTimeout(StageError, TimeoutError):  # noqa: N818  (as TimeoutError itself)
    """One call of a stage took longer than `stage_timeout`."""

    def __init__(self, stage: str, timeout_s: float) -> None:
        super().__init__(stage, f"one call took longer than {timeout_s:g} s")


class BatchTimeout(StageTimeout):
    """Failed calls used up the batch's time, so this call was not made."""

    def __init__(self, stage: str) -> None:
        StageError.__init__(self, stage, "no time was left for a call")


class DeadlinePassed(StageError, TimeoutError):  # noqa: N818  (as TimeoutError itself)
    """The client's deadline passed before this stage, so the stage was not called."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage, "the request's deadline passed before this stage")


class HostLost(StageError):  # noqa: N818  (says what happened, as StageTimeout does)
    """The model host ended while it computed a call with these rows; one of them may be why."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage, "the process with the model ended during the call")


class HostMissing(StageError):  # noqa: N818
    """No model host could be asked before TorchServe would have given up on the worker."""

    def __init__(self, stage: str, why: str = "") -> None:
        text = "the process with the model could not be asked in time"
        super().__init__(stage, f"{text}: {why}" if why else text)
