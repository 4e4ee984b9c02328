"""Answers as TorchServe's frontend sends them: status, content type, headers and body."""

from __future__ import annotations

import json
from typing import NamedTuple

from starlette.responses import Response

from micro_batch_handler.tools.checking.response import WireAnswer

__all__ = ["ServerError", "error_response", "json_response", "response_of"]

NO_CACHE = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
"""TorchServe sends these with every answer that has no Cache-Control of its own."""


class ServerError(NamedTuple):
    """An answer that no handler has given."""

    status: int
    type: str
    message: str


def json_response(value: object, status: int = 200) -> Response:
    """JSON as the frontend lays it out."""
    body = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return Response(body, status, NO_CACHE, media_type="application/json")


def error_response(error: ServerError) -> Response:
    """The body that the frontend gives an error."""
    told = {"code": error.status, "type": error.type, "message": error.message}
    return json_response(told, error.status)


def response_of(answer: WireAnswer) -> Response:
    """What a client gets."""
    response = Response(answer.body, answer.status)
    named = {name.lower() for name in answer.headers}
    headers = {**NO_CACHE, **answer.headers} if "cache-control" not in named else answer.headers
    if answer.content_type:
        response.headers["content-type"] = answer.content_type
    for name, value in headers.items():
        response.headers[name] = value
    response.headers.setdefault("x-request-id", answer.request_id)
    return response
