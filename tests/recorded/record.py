"""Records what TorchServe's frontend sends to a worker, for tests/torchserve/test_reader.py.

python -m tests.recorded.record

Starts a server, whose worker keeps what it reads (harness/handlers/tee.py): a full batch of
every kind of request, and one of a single request. The message that loads the model is not kept: it
has the paths of the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from harness.crowd import together
from harness.grpc_client import GrpcClient
from harness.images import jpeg
from harness.model import Model
from harness.torchserve import TorchServe
from tests.recorded import RECORDING

__all__ = ["main"]

LONG_MS = 5_000
"""A batch delay that is waited for once only: the first batch is full."""

JSON = "application/json"
HEADERS = {"content-type": JSON, "x-tag": "grün".encode().decode("latin-1"), "x-empty": ""}
FORM = {
    "image": ("a.jpg", jpeg(2), "image/jpeg"),
    "options": ("options.json", b'{"top": 3}', JSON),
}


def main() -> None:
    """Record again."""
    with TorchServe() as server:
        file = server.folder / RECORDING.name
        model = server.model(
            "tee",
            {"tee": {"file": str(file)}},
            batch_size=len(REQUESTS),
            max_batch_delay=LONG_MS,
        )
        with model:
            together(len(REQUESTS), lambda place: REQUESTS[place](model))
            REQUESTS[0](model)
        data = file.read_bytes()
    RECORDING.write_bytes(data)
    sys.stdout.write(f"{RECORDING.name}: {len(data)} bytes\n")


def _rest(**kwargs: object) -> Callable[[Model], None]:
    def send(model: Model) -> None:
        model.predict(**kwargs).raise_for_status()

    return send


def _grpc(model: Model) -> None:
    with GrpcClient(model.server.ports) as grpc:
        grpc.predict(model.name, data=b"[1, 2]", more=b"\xff\x00")


REQUESTS: list[Callable[[Model], None]] = [
    _rest(data=b'{"numbers": [1, 2.5, NaN], "name": "gr\xc3\xbcn"}', headers=HEADERS),
    _rest(data=b'{"numbers": [1,', headers={"content-type": JSON}),
    _rest(files=FORM),
    _rest(data="grün".encode(), headers={"content-type": "text/plain; charset=utf-8"}),
    _rest(data="grün".encode("latin-1"), headers={"content-type": "text/plain"}),
    _rest(data=jpeg(1), headers={"content-type": "image/jpeg"}),
    _rest(data=b"", headers={"content-type": JSON}),
    _rest(data=bytes(range(256)) * 40),
    _grpc,
]

if __name__ == "__main__":
    main()
