"""What clients see; and clients in Python, without wrk: some thousand requests a second."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from urllib.parse import urlsplit

__all__ = ["Sample", "press"]

ANSWER = re.compile(rb"HTTP/1\.1 (\d+).*?\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE | re.DOTALL)
END_OF_HEAD = b"\r\n\r\n"
CHUNK_BYTES = 1 << 16
PATIENCE_S = 60.0
LEAST_ERROR = 400


@dataclass(frozen=True)
class Sample:
    """What clients saw in one round."""

    requests: int
    """Answered, with whatever status."""
    seconds: float
    refused: int
    """Answered with a status of 400 or above."""
    lost: int
    """Connections that broke, requests without an answer in a minute."""
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return (self.requests - self.refused) / self.seconds

    def figures(self) -> dict[str, float]:
        """For a JSON file."""
        return {**asdict(self), "rate": round(self.rate, 2)}


class _Connection:
    """One client: a request is out, its answer comes in pieces."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._found = b""
        self._sent_s = 0.0

    def send(self, request: bytes) -> None:
        """Send a request; the server always reads, so this does not block for long."""
        self._found = b""
        self._sent_s = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> tuple[int, float] | None:
        """The status and the seconds it took, once the answer is complete.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        piece = self.socket.recv(CHUNK_BYTES)
        if not piece:
            raise ConnectionError("closed by the server")
        self._found += piece
        head = self._found.find(END_OF_HEAD)
        if head < 0:
            return None
        status, length = map(int, ANSWER.match(self._found).groups())  # type: ignore[union-attr]
        if len(self._found) < head + len(END_OF_HEAD) + length:
            return None
        return status, time.perf_counter() - self._sent_s


def press(
    url: str, bodies: Sequence[bytes], content_type: str, clients: int, seconds: float
) -> Sample:
    """So many clients send these bodies in turn, each when its last was answered."""
    place = urlsplit(url)
    host, port = str(place.hostname), place.port or 80
    requests = cycle(
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    )
    latencies_s: list[float] = []
    refused = lost = 0
    with selectors.DefaultSelector() as selector:
        started_s = time.perf_counter()
        for _ in range(clients):
            connection = _Connection(host, port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next(requests))
        while (left_s := started_s + seconds - time.perf_counter()) > 0:
            for key, _ in selector.select(left_s):
                connection = key.data
                try:
                    answer = connection.receive()
                except OSError:
                    lost += 1
                    selector.unregister(connection.socket)
                    connection.socket.close()
                    connection = _Connection(host, port)
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                    connection.send(next(requests))
                    continue
                if answer is not None:
                    refused += answer[0] >= LEAST_ERROR
                    latencies_s.append(answer[1])
                    connection.send(next(requests))
        took_s = time.perf_counter() - started_s
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    latencies_s.sort()
    p50_ms, p90_ms, p99_ms = (_percentile_ms(latencies_s, share) for share in (0.5, 0.9, 0.99))
    return Sample(len(latencies_s), took_s, refused, lost, p50_ms, p90_ms, p99_ms)


def _percentile_ms(sorted_s: Sequence[float], share: float) -> float:
    return 1000 * sorted_s[min(int(share * len(sorted_s)), len(sorted_s) - 1)] if sorted_s else 0.0
