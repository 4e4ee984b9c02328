"""Batches read through a buffer: the same, byte for byte, as TorchServe's own reader gives them."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import struct
import sys
from types import ModuleType

import pytest
import ts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ts.protocol import otf_message_handler
from ts.protocol.otf_message_handler import retrieve_msg

from harness.archives import pack
from harness.wire import END, Request, text
from harness.worker import Worker
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.torchserve.wire.reader import (
    BUFFER_BYTES,
    MADE_FOR,
    MessageReader,
    read_buffered,
)
from tests.fakes import fake_context
from tests.recorded import RECORDING

DECODES = "TS_DECODE_INPUT_REQUEST"
JSON = "application/json"
MANY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SMALL = 24
"""A buffer of so many bytes has its borders everywhere in a message."""


# -- what the frontend sends -----------------------------------------------------------------------


def number(value):
    return struct.pack("!i", value)


def message(*requests):
    """A batch; each request has an id, headers (name, value), and bodies (name, type, value)."""
    return (
        b"I"
        + b"".join(
            text(identity)
            + b"".join(text(name) + text(value) for name, value in headers)
            + END
            + b"".join(text(name) + text(kind) + text(value) for name, kind, value in bodies)
            + END
            for identity, headers, bodies in requests
        )
        + END
    )


def loading(name=b"model", gpu=-1):
    """The message that loads a model."""
    fields = text(name) + text("/models/model") + number(8) + text("handler.py") + number(gpu)
    return b"L" + fields + text("") + b"\x01"


def body(kind, value):
    """A batch of one request with this body."""
    return message(("id", [("content-type", kind)], [("body", kind, value)]))


ONE = message(("a", [("x", "1")], [("body", JSON, b"[1]")]))
TWO = message(
    ("b", [], [("image", "image/png", bytes(3 * SMALL)), ("body", "", b"")]),
    ("c", [("x" * SMALL, ""), ("", "y")], []),
)

KINDS = st.sampled_from([JSON, "text/plain", "text", "image/png", "", "application/jsonl"])
VALUES = st.one_of(
    st.binary(max_size=8),
    st.binary(min_size=SMALL - 2, max_size=5 * SMALL),
    st.text(max_size=SMALL).map(str.encode),
    st.lists(st.floats() | st.text(max_size=4), max_size=4).map(lambda x: json.dumps(x).encode()),
)
REQUESTS = st.tuples(
    st.text(max_size=SMALL),
    st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=2 * SMALL)), max_size=4),
    st.lists(st.tuples(st.text(max_size=5), KINDS, VALUES), max_size=3),
)
MESSAGES = st.one_of(
    st.lists(REQUESTS, max_size=4).map(lambda requests: message(*requests)),
    st.builds(loading, st.binary(max_size=2 * SMALL), st.integers(-1, 3)),
    st.binary(min_size=1, max_size=1).filter(lambda command: command not in b"IL"),
)
PIECES = st.lists(st.integers(1, 2 * SMALL), min_size=1, max_size=8)


# -- how it arrives, and what is read --------------------------------------------------------------


class Connection:
    """A socket on which these bytes arrive in pieces of these sizes, again and again.

    Then it is closed, or raises `error`. Who reads on after that waits for ever.
    """

    def __init__(self, data, pieces=(1 << 30,), error=None):
        self._left = memoryview(data)
        self._pieces = itertools.cycle(pieces)
        self._piece = 0
        self._error = error
        self._ended = False
        self.asked = 0

    def recv(self, length):
        room = bytearray(length)
        return bytes(room[: self.recv_into(room)])

    def recv_into(self, room):
        self.asked += 1
        if not self._left:
            assert not self._ended, "it was told already"
            self._ended = True
            if self._error is not None:
                raise self._error
        self._piece = self._piece or next(self._pieces)
        size = min(len(room), self._piece, len(self._left))
        room[:size] = self._left[:size]
        self._left = self._left[size:]
        self._piece -= size
        return size


class Records(logging.Handler):
    """What is logged, as (level, text); the time of a batch is not compared."""

    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append((record.levelname, record.msg))


@contextlib.contextmanager
def logged():
    """Keeps what is logged inside, and keeps it from the report."""
    root, records = logging.getLogger(), Records()
    before, root.handlers, level = root.handlers, [records], root.level
    root.setLevel(logging.INFO)
    try:
        yield records.found
    finally:
        root.handlers = before
        root.setLevel(level)


def typed(value):
    """The value with all its types, and the order of its keys; NaN is NaN."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(each) for each in value]
    return type(value), repr(value)


def arrays(value):
    """All bytearrays in a message."""
    if isinstance(value, bytearray):
        return [value]
    if isinstance(value, dict):
        return [found for each in value.values() for found in arrays(each)]
    if isinstance(value, list | tuple):
        return [found for each in value for found in arrays(each)]
    return []


def spoil(value):
    """Grow and change everything in a message, which must be nobody else's."""
    found = arrays(value)
    for place, each in enumerate(found):
        each[:] = bytes([place % 256]) * len(each)
        each.append(1)
    for place, each in enumerate(found):
        assert each == bytes([place % 256]) * (len(each) - 1) + b"\x01"


def one(read, connection):
    """What one call gives, or raises; and whether it was the last."""
    try:
        command, content = read(connection)
    except (SystemExit, OSError, UnicodeDecodeError) as end:
        return repr(end), True
    except ValueError as unknown:
        return repr(unknown), False
    found = typed(command), typed(content)
    spoil((command, content))
    return found, False


def everything(read, connection):
    """All messages until the connection or the worker ends, how, and what is logged."""
    found, ended = [], False
    with logged() as log:
        while not ended:
            result, ended = one(read, connection)
            found.append(result)
    return found, log


def assert_same(data, pieces=(1 << 30,), error=None, buffer_bytes=SMALL):
    """Both readers give the same; gives it back."""
    expected = everything(retrieve_msg, Connection(data, error=error))
    found = everything(MessageReader(buffer_bytes), Connection(data, pieces, error))
    assert expected == found
    return found


@pytest.fixture(params=[None, "true", "false"])
def decodes(request, monkeypatch):
    """What the frontend tells its workers of decoding; whether they decode."""
    monkeypatch.delenv(DECODES, raising=False)
    if request.param is not None:
        monkeypatch.setenv(DECODES, request.param)
    return request.param != "false"


# -- the same as TorchServe's ----------------------------------------------------------------------


@MANY
@given(messages=st.lists(MESSAGES, max_size=5), pieces=PIECES, size=st.integers(4, 2 * SMALL))
@example(messages=[ONE, loading(), TWO, b"X", ONE], pieces=[1], size=4)
@example(messages=[ONE, loading(), TWO, b"X", ONE], pieces=[1 << 30], size=BUFFER_BYTES)
def test_any_traffic_in_any_pieces_is_read_the_same(decodes, messages, pieces, size):
    """Random messages one after the other give the original's values, types, order and log."""
    assert_same(b"".join(messages), pieces, buffer_bytes=size)


@MANY
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    pieces=PIECES,
    cut=st.integers(0, 10_000),
    error=st.sampled_from([None, ConnectionResetError(104, "reset")]),
)
def test_a_connection_that_ends_anywhere_ends_the_worker_the_same(messages, pieces, cut, error):
    """Closed between or within messages, or broken: SystemExit(0) or the error, and the log."""
    data = b"".join(messages)

    found, log = assert_same(data[: cut % (len(data) + 1)], pieces, error)

    assert found[-1] == ("SystemExit(0)" if error is None else repr(error))
    assert (log[-1:] == [("INFO", "Frontend disconnected.")]) == (error is None)


@pytest.mark.parametrize("pieces", [[1 << 30], [1], [7, 1, 40], [4096]], ids=str)
@pytest.mark.parametrize("size", [4, 61, 4096, BUFFER_BYTES])
def test_what_the_frontend_really_sent_is_read_the_same(decodes, pieces, size):
    """Recorded REST and gRPC requests give the original's values, whole and in pieces."""
    found, _ = assert_same(RECORDING.read_bytes(), pieces, buffer_bytes=size)

    commands = [command for command, _ in found[:-1]]
    assert commands == [(bytearray, repr(bytearray(b"I")))] * 2


@pytest.mark.parametrize(
    ("kind", "value", "decoded", "warned"),
    [
        (JSON, b'{"a": [1, NaN]}', dict, False),
        (JSON, b"{", bytearray, True),
        (JSON, b"", bytearray, True),
        (JSON, b'"\xff"', bytearray, True),
        ("text/csv", "grün".encode(), str, False),
        ("text/csv", "grün".encode("latin-1"), bytearray, True),
        ("image/png", b"[1]", bytearray, False),
    ],
)
def test_bodies_are_decoded_as_the_server_says(decodes, kind, value, decoded, warned):
    """JSON and text are decoded, what cannot be is passed on with a warning; or nothing is."""
    _, log = assert_same(body(kind, value), [3])
    with logged():
        _, (request,) = MessageReader(SMALL)(Connection(body(kind, value)))

    assert type(request["parameters"][0]["value"]) is (decoded if decodes else bytearray)
    assert any(level == "WARNING" for level, _ in log) == (decodes and warned)


def test_other_commands_are_torchserves_own(decodes):
    """A load message is read, an unknown command refused, and the batch behind them read."""
    (load, unknown, batch, end), _ = assert_same(loading(gpu=3) + b"X" + ONE, [5])

    assert "'gpu'" in str(load)
    assert unknown == """ValueError("Invalid command: bytearray(b'X')")"""
    assert batch[0] == (bytearray, repr(bytearray(b"I")))
    assert end == "SystemExit(0)"


@pytest.mark.parametrize(
    "data",
    [
        b"I" + number(-2) + END + END + END,
        b"I" + text("a") + text("x") + number(-7) + END + END + END,
        body("\udcff".encode("utf-8", "surrogatepass"), b""),
        message(("a", [], [(b"\xff", JSON, b"")])),
        message(("a", [], [("body", b"\xff", b"")])),
    ],
    ids=["id", "header", "surrogate", "name", "content type"],
)
def test_what_no_frontend_sends_is_read_the_same(decodes, data):
    """Negative lengths are none, and names that are not UTF-8 the original's errors."""
    assert_same(data + ONE, [2])


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1, 10 * SMALL])
def test_bodies_at_the_buffers_border_are_the_callers_own(monkeypatch, size):
    """Below, at and above the buffer's size, bodies can grow and share nothing."""
    monkeypatch.setenv(DECODES, "false")
    values = [bytes([row]) * size for row in range(3)]
    data = message(*((f"{row}", [], [("body", "", value)]) for row, value in enumerate(values)))

    with logged():
        _, requests = MessageReader(SMALL)(Connection(data))

    found = [request["parameters"][0]["value"] for request in requests]
    assert [bytes(each) for each in found] == values
    spoil(found)


def test_nothing_is_waited_for_that_a_message_does_not_need():
    """A message is given back as soon as its last byte is there."""
    reader, connection = MessageReader(SMALL), Connection(TWO, [SMALL - 1], BlockingIOError())

    with logged():
        command, batch = reader(connection)

    assert (command, len(batch)) == (b"I", 2)


def test_a_batch_that_is_there_costs_one_system_call(monkeypatch):
    """The point of it: 32 requests in one read, and none of TorchServe's functions for a field."""
    monkeypatch.setenv(DECODES, "false")
    headers = [(f"x-{place}", "1") for place in range(8)]
    data = message(*((f"{row}", headers, [("body", JSON, b"[1]")]) for row in range(32)))
    connection = Connection(data)
    monkeypatch.delattr(otf_message_handler, "_retrieve_buffer")

    with logged():
        _, batch = MessageReader()(connection)

    assert (len(batch), connection.asked) == (32, 1)


def test_another_connection_begins_afresh():
    """What is left of one connection is not read as the beginning of the next."""
    reader = MessageReader()
    with logged():
        first, second = reader(Connection(ONE + TWO)), reader(Connection(ONE))

    assert typed(first) == typed(second)


# -- where it is done ------------------------------------------------------------------------------


def script(reader=retrieve_msg):
    """A worker's script that reads with this."""
    module = ModuleType("__main__")
    module.TorchModelServiceWorker = object
    module.retrieve_msg = reader
    return module


@pytest.fixture
def log(caplog):
    """What this package logs, from now on."""
    caplog.set_level(logging.INFO, "micro_batch_handler")
    return lambda: [each.getMessage() for each in caplog.records]


def test_a_worker_reads_through_the_buffer(log):
    """The script's name is pointed to a reader, once: a second call changes nothing."""
    worker = script()

    assert read_buffered(worker)
    reader = worker.retrieve_msg
    assert type(reader) is MessageReader
    assert read_buffered(worker)
    assert worker.retrieve_msg is reader
    assert log() == []


def test_outside_a_worker_nothing_happens(log, monkeypatch):
    """A script that is no worker keeps its names, even one that is called like TorchServe's."""
    monkeypatch.setattr(ts, "__version__", "0.13.0")
    empty, tool = ModuleType("__main__"), ModuleType("__main__")
    tool.retrieve_msg = retrieve_msg

    assert not read_buffered()
    assert not read_buffered(empty)
    assert not hasattr(empty, "retrieve_msg")
    assert not read_buffered(tool)
    assert tool.retrieve_msg is retrieve_msg
    assert log() == []


@pytest.mark.parametrize("version", ["0.11.1", "0.12.1", "0.13.0", "0.12.0b20240930"])
def test_another_torchserve_reads_by_itself(log, monkeypatch, version):
    """Made for one release: with another it is off, and one line names both."""
    monkeypatch.setattr(ts, "__version__", version)
    worker = script()

    assert not read_buffered(worker)
    assert worker.retrieve_msg is retrieve_msg
    (line,) = log()
    assert "buffered_reads is off" in line
    assert MADE_FOR in line.split("found")[0]
    assert line.endswith(f"found {version}")


@pytest.mark.parametrize("reader", [lambda connection: connection, None])
def test_a_reader_of_somebody_elses_stays(log, reader):
    """What has replaced the original, to trace it for example, is left in place, with one line."""
    worker = script(reader)

    assert not read_buffered(worker)
    assert worker.retrieve_msg is reader
    (line,) = log()
    assert "buffered_reads is off" in line


@pytest.mark.parametrize(
    ("section", "kind"),
    [({}, MessageReader), ({"buffered_reads": False}, type(retrieve_msg))],
    ids=str,
)
def test_the_key_decides_when_the_model_loads(monkeypatch, section, kind):
    """A handler's `initialize` puts the reader in place, unless `buffered_reads: false`."""
    worker = script()
    monkeypatch.setitem(sys.modules, "__main__", worker)
    handler = type("Nothing", (MicroBatchHandler,), {"initialize": lambda self, context: None})()

    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    handler.close()

    assert type(worker.retrieve_msg) is kind


# -- a real worker ---------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize(
    ("section", "reader"),
    [({}, "MessageReader"), ({"buffered_reads": False}, "function")],
    ids=str,
)
def test_a_real_worker_answers_the_same_with_and_without(
    torchserve, tmp_path, monkeypatch, section, reader
):
    """Batches in single bytes, in pieces and whole get their own answers, read in either way."""
    monkeypatch.delenv(DECODES, raising=False)  # the worker inherits it
    folder = pack(
        f"reader-{os.getpid()}-{reader}",
        "reader",
        {"micro_batching": section},
        tmp_path,
        "no-archive",
    )
    rows = [
        Request("a", b'{"a": 1}', JSON, [("x-tag", "1"), ("x-empty", "")]),
        Request("b", "grün".encode(), "text/plain"),
        Request("c", b"\xff", "text/plain"),
        Request("d", b"", ""),
    ]
    due = [{"a": 1}, "grün", bytearray(b"\xff"), bytearray()]
    large = [Request(f"{row}", bytes([row]) * (BUFFER_BYTES + row), "") for row in range(3)]

    with Worker(folder, "reader", batch_size=len(rows)) as worker:
        for piece_bytes in (1, 5, None):
            code, answers = worker.predict(rows, piece_bytes)
            found = [json.loads(answer.body) for answer in answers]

            assert (code, [answer.id for answer in answers]) == (200, ["a", "b", "c", "d"])
            assert [each["body"] for each in found] == [repr(value) for value in due]
            assert {each["reader"] for each in found} == {reader}
        _, answers = worker.predict(large, 10_000)
        found = [json.loads(answer.body)["body"] for answer in answers]
        assert found == [repr(bytearray(row.body)) for row in large]

        worker.hang_up()
        assert worker.process.wait(30) == 0
        assert worker.log().count("Frontend disconnected.") == 1
