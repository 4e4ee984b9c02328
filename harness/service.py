"""TorchServe's Service around a handler in this process, and batches sent through it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ts.protocol.otf_message_handler import retrieve_msg
from ts.service import Service

from harness.wire import Answer, Request, Wrong, frame, parse

__all__ = ["Discard", "FakeMetrics", "Wire", "predict", "quiet", "service_of"]


class FakeMetrics:
    """Records what is emitted, with TorchServe's signatures."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, Any, Any, list[Any]]] = []

    def add_time(self, name, value, idx=None, unit="ms", dimensions=[]):  # noqa: B006
        self.emitted.append((name, value, idx, dimensions))

    def add_counter(self, name, value, idx=None, dimensions=[]):  # noqa: B006
        self.emitted.append((name, value, idx, dimensions))


def service_of(
    handler: Any, model_yaml: Mapping[str, Any], metrics: Any, batch_size: int = 32
) -> Service:
    """TorchServe's service for a handler, initialized with this model-config.yaml."""
    service = Service("model", "", {"model": {}}, handler.handle, None, batch_size, True, metrics)
    service.context.model_yaml_config = dict(model_yaml)
    service.set_cl_socket(None)
    handler.initialize(service.context)
    return service


class Wire:
    """A socket that has received these bytes."""

    def __init__(self, received: bytes) -> None:
        self._stream = io.BytesIO(received)

    def recv(self, length: int) -> bytes:
        return self._stream.read(length)


def predict(service: Service, requests: Sequence[Request]) -> tuple[int, str, list[Answer]]:
    """Send a batch through TorchServe's own reading, predicting and writing."""
    wire = Wire(frame(requests))
    _, batch = retrieve_msg(wire)
    if left := wire.recv(-1):
        raise Wrong(f"{len(left)} bytes of the request were not read")
    return parse(bytes(service.predict(batch)))


class Discard(logging.Handler):
    """Formats every record, as a log file would, and drops it."""

    def __init__(self) -> None:
        super().__init__()
        self.records = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        with contextlib.suppress(Exception):  # as logging.StreamHandler
            self.format(record)


@contextlib.contextmanager
def quiet() -> Iterator[Discard]:
    """Format all log records and show none."""
    root, discard = logging.getLogger(), Discard()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [discard]
    root.setLevel(logging.INFO)
    try:
        yield discard
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
