"""The answers to failed requests: status and body. The log says more; see fault_log.py.

    the request's error                      status                body's message
    PredictionException(message, code)       its code              its message
    its body is not the JSON that it says    400                   where it is not
    preprocess failed on it, alone           400                   "preprocess failed"
    inference or postprocess failed on it    500                   "<stage> failed"
    a stage broke the contract               500                   "<stage> failed"
    out of memory, even alone                507                   "Out of resources"
    a call of a stage took too long          504                   stage and seconds
    its deadline passed                      504                   before which stage
    the worker's device is lost              507                   "Out of resources"
    the model host ended on it, even alone   507                   "Out of resources"
    no model host could be asked in time     503                   that there was none

The body repeats the status, because gRPC drops it, and names the type of the exception.
"""

from __future__ import annotations

from http.client import responses as PHRASES  # noqa: N812  (a constant)
from typing import Any

from ts.context import Context

from micro_batch_handler.errors import BodyError, DeadlinePassed, MicroBatchError
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.torchserve.metrics.reasons import reason_of
from micro_batch_handler.torchserve.responses import STATUSES, STREAM_NEXT

__all__ = ["answer_failures", "raise_first", "status_of"]

CLIENT_ERROR = 400
SERVER_ERROR = 500
UNAVAILABLE = 503
TIMED_OUT = 504
OUT_OF_RESOURCES = 507


def answer_failures(outcomes: Outcomes, context: Context) -> list[Any]:
    """The batch's answers, with an error body and status for each request that failed."""
    for index, failure in outcomes.failures.items():
        code, message = status_of(failure)
        # Its stages set headers for an answer; but a stream that has begun must be ended.
        headers = context.get_response_headers(index)
        streams = STREAM_NEXT in headers
        headers.clear()
        if streams:
            headers[STREAM_NEXT] = "true"
        context.set_response_status(code, PHRASES.get(code, "Error"), index)
        context.set_response_content_type(index, "application/json")
        outcomes.answers[index] = {
            "code": code,
            "type": type(failure.error).__name__,
            "message": message,
        }
    return outcomes.answers


def raise_first(outcomes: Outcomes) -> None:
    """Raise the error of the first failed request, for TorchServe to map by its type.

    A request whose deadline has passed or whose body cannot be read fails alone in any case.
    """
    for _, failure in sorted(outcomes.failures.items()):
        if not isinstance(failure.error, (BodyError, DeadlinePassed)):
            raise failure.error


def status_of(failure: Failure) -> tuple[int, str]:
    """The status and the message that the clients of a failure get."""
    error = failure.error
    reason = reason_of(error)
    if reason == "refused":
        code = _attribute(error, "error_code")
        legal = type(code) is int and code in STATUSES
        return (code if legal else SERVER_ERROR), _text(_attribute(error, "message"))
    if reason in {"out_of_memory", "device_lost", "host_lost"}:
        return OUT_OF_RESOURCES, "Out of resources"
    if reason == "host_missing":
        # Why there was none may be an error of the handler, whose text is for the log.
        return UNAVAILABLE, "the process with the model could not be asked in time"
    if reason in {"timeout", "deadline"}:
        return TIMED_OUT, str(error)
    if reason == "body":
        return CLIENT_ERROR, str(error)
    # A broken contract is the handler's fault, whatever the client sent.
    blame_client = failure.stage == "preprocess" and not isinstance(error, MicroBatchError)
    code = CLIENT_ERROR if blame_client else SERVER_ERROR
    return code, f"{failure.stage} failed"


def _attribute(error: BaseException, name: str) -> Any:
    """An attribute of PredictionException, which a subclass may lack or hide."""
    try:
        return getattr(error, name)
    except BaseException:
        return None


def _text(message: object) -> str:
    try:
        return str(message)
    except BaseException:
        return "the error has no readable message"
