"""LitServe: hooks around FastAPI, batched in worker processes."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.peer import Peer
from benchmarks.throughput.workload import Workload

__all__ = ["PEER"]

BOUNDARY = "0f4b7c1e"
"""Of a form; no body has it."""


def _wrap(workload: Workload, body: bytes) -> bytes:
    """A form with a file, which is how LitServe takes what is not JSON."""
    if workload.content_type == "application/json":
        return body
    head = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="content"; filename="content"\r\n'
        f"Content-Type: {workload.content_type}\r\n\r\n"
    )
    return b"%s%s\r\n--%s--\r\n" % (head.encode(), body, BOUNDARY.encode())


def _content_type(workload: Workload) -> str:
    if workload.content_type == "application/json":
        return workload.content_type
    return f"multipart/form-data; boundary={BOUNDARY}"


def _settings(*, workers: int, servers: int, size: int, timeout: float) -> dict[str, Any]:
    return {
        "workers_per_device": workers,
        "num_api_servers": servers,
        "max_batch_size": size,
        "batch_timeout": timeout,
        "threads": 2,
    }


# Found by hand with 64 clients on two cores that were not quiet; the search decides between two.
PEER = Peer(
    key="litserve",
    title="LitServe",
    path="/predict",
    settings={
        # Each request goes four times through one manager process, whatever is set: two of each
        # keep both cores busy, one of each costs the least CPU per request.
        "vector": [
            _settings(workers=2, servers=2, size=32, timeout=0.005),
            _settings(workers=1, servers=1, size=32, timeout=0.005),
        ],
        # One worker decodes in two threads; two decode while the other one waits for the device.
        "image": [
            _settings(workers=1, servers=1, size=64, timeout=0.01),
            _settings(workers=2, servers=1, size=32, timeout=0.01),
        ],
        # A worker has one thread for torch, so one worker uses one core.
        "text": [
            _settings(workers=2, servers=1, size=16, timeout=0.005),
            _settings(workers=1, servers=1, size=16, timeout=0.02),
        ],
    },
    follows="https://lightning.ai/docs/litserve/features/batching",
    # A fifth of a core, in all its processes, to look whether there is something to do.
    restless=True,
    wrap=_wrap,
    content_type=_content_type,
)
