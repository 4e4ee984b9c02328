"""HTTP requests as TorchServe's frontend hands them to a worker."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from starlette.requests import Request

__all__ = ["WireRequest", "from_grpc", "from_http"]

WireRequest: TypeAlias = "dict[str, Any]"
"""As `ts.protocol.otf_message_handler` reads it, but for bodies, which are not decoded."""

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def from_http(request: Request, added: Iterable[tuple[str, str]]) -> WireRequest:
    """The request with its body, or with the parts of its form.

    Args:
        request: of a client.
        added: more headers for the handler.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0]
    if content_type.lower() in FORMS:
        parts = [await _part(name, value) for name, value in (await request.form()).multi_items()]
    else:
        parts = [_parameter("body", content_type, await request.body())]
    names = [*((k.decode("latin-1"), v) for k, v in request.headers.raw), *_encoded(added)]
    return {
        "requestId": _request_id(),
        "headers": [{"name": name.encode(), "value": value} for name, value in names],
        "parameters": parts,
    }


def from_grpc(inputs: Mapping[str, bytes]) -> WireRequest:
    """A request of gRPC, which has neither headers nor content types."""
    return {
        "requestId": _request_id(),
        "headers": [],
        "parameters": [_parameter(name, "", value) for name, value in inputs.items()],
    }


def _request_id() -> bytes:
    """A random one; not by `uuid4`, whose call of the system costs as much as the rest here."""
    return b"%032x" % random.getrandbits(128)


async def _part(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return _parameter(name, "", value.encode())
    return _parameter(name, value.content_type or "", await value.read())


def _parameter(name: str, content_type: str, value: bytes) -> dict[str, Any]:
    return {"name": name, "contentType": content_type, "value": bytearray(value)}


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in headers]
