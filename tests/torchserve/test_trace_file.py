"""What the key `trace` makes a worker do."""

from __future__ import annotations

import logging
import os

import pytest

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.handler import engine_of
from micro_batch_handler.torchserve.trace_file import TraceFile
from micro_batch_handler.tracing.trace_json import from_json
from tests.fakes import Plain, fake_context


def started(**section):
    """A handler with these keys, and its engine."""
    handler = Plain()
    context = fake_context(4, batch_size=4, model_yaml={"micro_batching": section})
    handler.initialize(context)
    return handler, engine_of(handler, context)


def traces(engine) -> list:
    """Who still listens to write a trace."""
    return [one for one in engine.listeners if isinstance(one, TraceFile)]


def answer(handler, rows=4):
    """One batch."""
    return handler.handle([{"body": row} for row in range(rows)], fake_context(rows))


def test_so_many_batches_are_written_and_then_nobody_listens(tmp_path):
    """The file has the batches with all calls; nothing beside it is left, and no listener."""
    path = tmp_path / "trace.json"
    handler, engine = started(micro_batch_size=2, trace={"file": str(path), "batches": 2})

    assert answer(handler) == [0, 1, 2, 3]
    assert not path.exists()
    answer(handler, 3)
    trace = from_json(path.read_bytes())
    answer(handler)
    handler.close()

    assert [batch.rows for batch in trace.batches] == [4, 3]
    assert [len(batch.calls) for batch in trace.batches] == [6, 6]
    assert trace.setup == engine.setup
    assert (trace.setup.model, trace.setup.batch_size) == ("model", 4)
    assert not traces(engine)
    assert list(tmp_path.iterdir()) == [path]
    assert len(from_json(path.read_bytes()).batches) == 2


def test_each_worker_can_have_a_file_of_its_own(tmp_path):
    """`%p` in the name is the worker's process; `trace` draws the files of several together."""
    trace = {"file": str(tmp_path / "trace-%p.json"), "batches": 1}
    handler, _ = started(micro_batch_size=2, trace=trace)

    answer(handler)
    handler.close()

    assert [path.name for path in tmp_path.iterdir()] == [f"trace-{os.getpid()}.json"]


def test_only_with_a_trace_file_somebody_listens(tmp_path):
    """Off, it costs nothing."""
    on, engine = started(trace={"file": str(tmp_path / "trace.json")})
    assert len(traces(engine)) == 1
    on.close()
    handler, engine = started(micro_batch_size=2)

    assert not traces(engine)
    handler.close()


def test_another_listener_misses_no_batch_when_the_trace_leaves(tmp_path):
    """Leaving does not skip the next in line."""
    path = tmp_path / "trace.json"
    handler, engine = started(micro_batch_size=2, trace={"file": str(path), "batches": 1})
    told = []
    engine.listeners.append(told.append)

    answer(handler)
    answer(handler)
    handler.close()

    assert len(told) == 2


def test_a_file_that_cannot_be_written_costs_a_line_in_the_log(tmp_path, caplog):
    """Requests are answered all the same."""
    path = tmp_path / "missing" / "trace.json"
    handler, engine = started(micro_batch_size=2, trace={"file": str(path), "batches": 1})
    with caplog.at_level(logging.WARNING):
        assert answer(handler) == [0, 1, 2, 3]
        assert answer(handler) == [0, 1, 2, 3]
    handler.close()

    [line] = [r.message for r in caplog.records if "trace.file" in r.message]
    assert f"micro_batching.trace.file {path} cannot be written" in line
    assert not traces(engine)


def test_the_old_spelling_writes_a_trace_too_and_costs_one_line_in_the_log(tmp_path, caplog):
    """The line is written when the model loads, and says the new spelling."""
    path = tmp_path / "trace.json"
    with caplog.at_level(logging.WARNING):
        handler, _ = started(micro_batch_size=2, trace_file=str(path), trace_batches=1)
        answer(handler)
        handler.close()

    assert len(from_json(path.read_bytes()).batches) == 1
    [line] = [r.message for r in caplog.records if "trace" in r.message]
    assert line.endswith("write trace.file for trace_file, trace.batches for trace_batches")


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ({"file": "trace.json"}, r"trace\.file must be an absolute path, .* 'trace.json'"),
        ({"file": 3}, r"trace\.file must be an absolute path"),
        ({"file": "/tmp/t", "batches": 0}, r"trace\.batches must be a whole number >= 1"),
        ({"file": "/tmp/t", "batches": True}, r"trace\.batches must be"),
    ],
)
def test_keys_that_cannot_work_are_refused(trace, said):
    """When the model loads, with the key, the rule and the value."""
    with pytest.raises(ConfigError, match=said):
        started(trace=trace)
