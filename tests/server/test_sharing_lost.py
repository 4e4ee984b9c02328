"""Who ends the process with the model: the row that does it, and nobody beside it."""

from __future__ import annotations

import threading

import pytest

from harness.processes import kill
from harness.service import FakeMetrics, predict, service_of
from harness.sharing import hosts_of_this_process
from harness.wait import until
from harness.wire import Request
from micro_batch_handler.errors import HostLost
from micro_batch_handler.hosting.client import HostClient
from micro_batch_handler.pipeline.gate import Gate
from micro_batch_handler.tools.workbench.model_folder import importable, working_in

pytestmark = pytest.mark.usefixtures("as_before")

DOUBLED = """
from micro_batch_handler import MicroBatchHandler


class Doubled(MicroBatchHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        return [2 * number for number in batch]

    def postprocess(self, outputs):
        return outputs
"""


@pytest.mark.usefixtures("short_temporary_folder")
def test_rows_that_have_lost_a_host_go_alone(tmp_path, monkeypatch):
    """After a batch has lost a call with its host, its rows have nothing beside them."""
    (tmp_path / "doubled_rows.py").write_text(DOUBLED, encoding="utf-8")
    asked = []
    ask = HostClient.ask

    def lose_first(client, stage, rows, until_s):
        asked.append((rows.number, rows.alone))
        if len(asked) == 1:
            raise HostLost(stage)
        return ask(client, stage, rows, until_s)

    monkeypatch.setattr(HostClient, "ask", lose_first)
    section = {"share_model": True, "micro_batch_size": 4}
    with importable(tmp_path), working_in(tmp_path):
        handler = __import__("doubled_rows").Doubled()
        service = service_of(handler, {"micro_batching": section}, FakeMetrics(), batch_size=4)
        try:
            rows = [Request(f"request-{n}", str(n).encode()) for n in range(4)]
            answers = [predict(service, rows)[2] for _ in range(2)]
        finally:
            handler.close()
            kill(hosts_of_this_process())

    assert [[answer.body for answer in each] for each in answers] == [[b"0", b"2", b"4", b"6"]] * 2
    assert asked == [(4, False), *[(1, True)] * 4, (4, False)]


def test_who_is_alone_has_nobody_beside_it():
    """It waits for those inside; who comes later waits for it."""
    gate, order = Gate(), []
    first, alone_waits = threading.Event(), threading.Event()

    def enter(name, *, alone):
        with gate.passing(alone=alone):
            order.append(name)
            if name == "first":
                first.set()
                assert alone_waits.wait(10)
                order.append("first leaves")

    threads = [threading.Thread(target=enter, args=("first",), kwargs={"alone": False})]
    threads[0].start()
    assert first.wait(10)
    threads.append(threading.Thread(target=enter, args=("alone",), kwargs={"alone": True}))
    threads[1].start()
    until(lambda: gate._alone or "alone" in order, "one that wants to be alone")
    threads.append(threading.Thread(target=enter, args=("later",), kwargs={"alone": False}))
    threads[2].start()
    alone_waits.set()
    for thread in threads:
        thread.join(10)

    assert order == ["first", "first leaves", "alone", "later"]
