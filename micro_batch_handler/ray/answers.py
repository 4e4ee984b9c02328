"""Answers as TorchServe's frontend sends them: status, content type, headers and body."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple, TypeAlias

from starlette.responses import Response, StreamingResponse

from micro_batch_handler.tools.checking.response import WireAnswer

__all__ = [
    "Part",
    "ServerError",
    "error_response",
    "json_response",
    "response_of",
]

NO_CACHE = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
"""TorchServe sends these with every answer that has no Cache-Control of its own."""


MORE = "ts_stream_next"
"""The header that a part of an answer has: "true" before the last."""


class ServerError(NamedTuple):
    """An answer that no handler has given."""

    status: int
    type: str
    message: str


Part: TypeAlias = WireAnswer | ServerError
"""An answer, or a part of one."""


def json_response(value: object, status: int = 200) -> Response:
    """JSON as the frontend lays it out."""
    body = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return Response(body, status, NO_CACHE, media_type="application/json")


def error_response(error: ServerError) -> Response:
    """The body that the frontend gives an error."""
    told = {"code": error.status, "type": error.type, "message": error.message}
    return json_response(told, error.status)


async def response_of(parts: AsyncGenerator[Part, None]) -> Response:
    """What a client gets of an answer, which may come part by part and is sent as they come.

    Status and headers are those of the first. An error after it ends the body, as TorchServe's.
    """
    first = await anext(parts)
    if isinstance(first, ServerError) or first.headers.get(MORE) != "true":
        await parts.aclose()
        if isinstance(first, ServerError):
            return error_response(first)
        return _headed(Response(first.body, first.status), first)

    async def bodies() -> AsyncIterator[bytes]:
        yield first.body
        async for part in parts:
            yield bytes(error_response(part).body) if isinstance(part, ServerError) else part.body

    return _headed(StreamingResponse(bodies(), first.status), first)


def _headed(response: Response, answer: WireAnswer) -> Response:
    named = {name.lower() for name in answer.headers}
    headers = {**NO_CACHE, **answer.headers} if "cache-control" not in named else answer.headers
    if answer.content_type:
        response.headers["content-type"] = answer.content_type
    for name, value in headers.items():
        response.headers[name] = value
    response.headers.setdefault("x-request-id", answer.request_id)
    return response
