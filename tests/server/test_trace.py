"""On a real TorchServe: a worker writes a trace of its first batches, and the command draws it."""

from __future__ import annotations

import json

import pytest

from harness.crowd import together
from harness.wait import until
from micro_batch_handler.__main__ import main
from micro_batch_handler.tracing.trace_json import from_json

pytestmark = pytest.mark.server

BATCHES = 2


def test_a_worker_writes_its_first_batches_and_goes_on(server, tmp_path, capsys):
    """The file holds so many batches with all their calls, in lanes; later ones change nothing."""
    path = tmp_path / "worker.json"
    section = {"micro_batch_size": 2, "trace": {"file": str(path), "batches": BATCHES}}
    model = server.model("echo", {"micro_batching": section}, batch_size=4, max_batch_delay=2_000)
    with model:

        def answered(number: int) -> int:
            return model.predict(json={"number": number}).json()["result"]

        def batch() -> None:
            assert together(4, answered) == [1, 4, 7, 10]

        batch()
        batch()
        until(path.exists, "the trace", 30)
        written = path.read_bytes()
        batch()

    assert path.read_bytes() == written
    trace = from_json(written)
    assert trace.setup.model == model.name
    assert trace.setup.batch_size == 4
    assert len(trace.batches) == BATCHES
    for each in trace.batches:
        assert each.began_s < each.ended_s
        assert sorted({row for call in each.calls for row in call.indices}) == list(
            range(each.rows)
        )
    pytest.importorskip("matplotlib", reason="the extra `tools` is not installed")
    assert main(["trace", str(path), "--output", str(tmp_path / "drawn")]) == 0
    assert json.loads((tmp_path / "drawn" / "trace.json").read_bytes()) == json.loads(written)
