"""The time that decoding and encoding take, for one row and for a batch in TorchServe's worker.

python -m benchmarks.codec --numbers 384 --rows 32

The batch's frame goes through the code that the worker runs, from the bytes that the frontend has
sent to those that it gets back; the socket is a buffer. The handler does nothing, so that only
TorchServe and the codec are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ts.protocol.otf_message_handler import retrieve_msg
from ts.torch_handler.base_handler import BaseHandler

from harness.command import describe
from harness.service import FakeMetrics, Wire, service_of
from harness.wire import Request, frame
from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.torchserve.wire import decode, encode

__all__ = ["main"]

REPEATS = 200


class Nothing(BaseHandler):  # type: ignore[misc]  # ts is untyped
    """Answers `{"x": numbers}` with the same."""

    def initialize(self, context: Any) -> None:
        """Load no model."""

    def preprocess(self, data: list[Any]) -> list[Any]:
        """The numbers of each row."""
        return [row["body"]["x"] for row in data]

    def inference(self, data: list[Any]) -> list[Any]:
        """Nothing."""
        return data

    def postprocess(self, data: list[Any]) -> list[Any]:
        """An object for each row."""
        return [{"x": numbers} for numbers in data]


class MicroBatchNothing(MicroBatchMixin, Nothing):
    """The same by this package."""


def main() -> None:
    """Print a table of times in µs, the best and the median of many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, default=384, help="floats in a body and an answer")
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch")
    options = parser.parse_args()
    numbers = [(each * 7919 % 9973) / 9973 - 0.5 for each in range(options.numbers)]
    body = bytearray(json.dumps({"x": numbers}).encode())
    answer = {"x": numbers}
    about = f"{options.numbers} numbers, {len(body)} bytes; µs, best and median of {REPEATS}"
    sys.stdout.write(f"{describe()}\n{about}\n")
    _show("row: TorchServe decodes", lambda: json.loads(body.decode()))
    _show("row: decoded here", lambda: decode.loads(body))
    _show("row: TorchServe encodes", lambda: json.dumps(answer, indent=2).encode())
    _show("row: encoded here", lambda: encode.encode(answer))
    message = frame(Request(str(row), bytes(body)) for row in range(options.rows))
    section = {"micro_batch_size": options.rows // 4 or 1}
    for kind, decodes in (
        (Nothing, "true"),
        (MicroBatchNothing, "true"),
        (MicroBatchNothing, "false"),
    ):
        os.environ["TS_DECODE_INPUT_REQUEST"] = decodes
        service = service_of(
            kind(), {"micro_batching": section}, FakeMetrics(), batch_size=options.rows
        )
        _show(
            f"batch: {kind.__name__}, decode_input_request={decodes}",
            lambda service=service: service.predict(retrieve_msg(Wire(message))[1]),  # type: ignore[misc]
        )


def _show(what: str, call: Callable[[], object]) -> None:
    times_us = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        call()
        times_us.append((time.perf_counter() - started_s) * 1e6)
    times_us.sort()
    sys.stdout.write(f"{times_us[0]:10.1f} {times_us[len(times_us) // 2]:10.1f}  {what}\n")


if __name__ == "__main__":
    main()
