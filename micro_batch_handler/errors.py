"""What can go wrong, as a small tree.

    MicroBatchError
    ├── ConfigError (RuntimeError)    a setting cannot work; found when the model loads
    ├── ArchiveError                  an archive cannot be built or checked; raised by the tools
    ├── SplitError                    a handler did with a part of a batch what needs all of it
    ├── TraceError                    a trace cannot be read or drawn; raised by the tools
    └── StageError                    a stage broke the contract; the outcome of its requests
        ├── LengthError (ValueError)  k rows went in, another number came out
        ├── PayloadError (TypeError)  a payload cannot be cut or joined where the plan needs it
        │   └── RegroupError          found before the call of the stage that needs it
        ├── BodyError (ValueError)    a request's body is not what it says; no stage was called
        ├── StageTimeout (TimeoutError)   one call of the stage took too long
        │   └── BatchTimeout              calls that failed left no time for this one
        └── DeadlinePassed (TimeoutError) the client no longer waits

What a user's own code raises is never wrapped: TorchServe maps exceptions by their type.
No message here may contain the word that TorchServe greps for to answer 507 (the GPU platform's
name in capitals).
"""

from __future__ import annotations

__all__ = [
    "ArchiveError",
    "BatchTimeout",
    "BodyError",
    "ConfigError",
    "DeadlinePassed",
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


class ConfigError(MicroBatchError, RuntimeError):
    """A setting cannot work.

    A `RuntimeError`, because TorchServe turns only that (and `MemoryError`) into a clean load
    failure; anything else kills the worker without an answer.
    """


class ArchiveError(MicroBatchError):
    """An archive cannot be built or checked; the message says what to change."""


class TraceError(MicroBatchError):
    """A trace cannot be read or drawn; the message says what to change."""


class StageError(MicroBatchError):
    """A stage broke the contract of `MicroBatchHandler`; `stage` names which."""

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
    """The output of a stage cannot be cut or joined where the next stage needs another size."""


class RegroupError(PayloadError):
    """Rows cannot be put together for a stage, which was therefore not called."""


class SplitError(MicroBatchError):
    """A handler did with a part of a batch what it can only do with the whole.

    No client sees it: the batch is run again whole, and so are those after it.
    """


class BodyError(StageError, ValueError):
    """A request's body is not what its content type says; no stage was called with it."""


class StageTimeout(StageError, TimeoutError):  # noqa: N818  (as TimeoutError itself)
    """One call of a stage took longer than `stage_timeout`."""

    def __init__(self, stage: str, timeout_s: float) -> None:
        super().__init__(stage, f"one call took longer than {timeout_s:g} s")


class BatchTimeout(StageTimeout):
    """So much time went into calls that failed that there was none for this one."""

    def __init__(self, stage: str) -> None:
        StageError.__init__(self, stage, "no time was left for a call")


class DeadlinePassed(StageError, TimeoutError):  # noqa: N818  (as TimeoutError itself)
    """The client's deadline passed before this stage, which was therefore not called."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage, "the request's deadline passed before this stage")
