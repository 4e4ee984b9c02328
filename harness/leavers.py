"""Clients that go away in mid-request."""

from __future__ import annotations

import socket
import struct

import psutil

from harness.torchserve import TorchServe

__all__ = ["connections", "leave"]

TIMEOUT_S = 30
RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)
"""SO_LINGER, switched on, for 0 s."""


def leave(
    server: TorchServe,
    model: str,
    body: bytes,
    *,
    sent: float = 1.0,
    reset: bool = False,
    content_type: str = "application/octet-stream",
) -> None:
    """Ask for a prediction and hang up before the answer.

    Args:
        server: the one that is asked.
        model: its name.
        body: of the request.
        sent: the share of the body that is sent before.
        reset: whether the connection is broken (RST) rather than closed (FIN).
        content_type: of the body.
    """
    head = (
        f"POST /predictions/{model} HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    address = ("127.0.0.1", server.ports.inference)
    with socket.create_connection(address, TIMEOUT_S) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_WHEN_CLOSED)
        client.sendall(head.encode() + body[: int(sent * len(body))])


def connections(server: TorchServe) -> int:
    """How many connections of REST clients the frontend holds."""
    return sum(
        each.status != psutil.CONN_LISTEN and each.laddr.port == server.ports.inference
        for each in psutil.Process(server.frontend_pid).net_connections("tcp")
    )
