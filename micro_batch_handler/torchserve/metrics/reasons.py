"""Why requests fail, as the metrics count it and as statuses go by."""

from __future__ import annotations

from typing import Literal, get_args

from ts.utils.util import PredictionException

from micro_batch_handler.errors import (
    BodyError,
    DeadlinePassed,
    HostLost,
    HostMissing,
    StageTimeout,
)
from micro_batch_handler.pipeline.device.device_errors import device_is_lost, is_out_of_memory

__all__ = ["REASONS", "reason_of"]

Reason = Literal[
    "refused",
    "error",
    "body",
    "timeout",
    "deadline",
    "out_of_memory",
    "device_lost",
    "host_lost",
    "host_missing",
]
"""`refused`: the handler raised a PredictionException; `body`: it could not be decoded."""

REASONS: tuple[Reason, ...] = get_args(Reason)


BY_TYPE: tuple[tuple[type[BaseException], Reason], ...] = (
    (StageTimeout, "timeout"),
    (DeadlinePassed, "deadline"),
    (BodyError, "body"),
    (HostLost, "host_lost"),
    (HostMissing, "host_missing"),
)


def reason_of(error: BaseException) -> Reason:
    """Why a request failed."""
    if isinstance(error, PredictionException):
        return "refused"
    if is_out_of_memory(error):
        return "out_of_memory"
    if device_is_lost(error):
        return "device_lost"
    return next((reason for kind, reason in BY_TYPE if isinstance(error, kind)), "error")
