"""On a real TorchServe: what loads, what is refused, and what comes back after a crash."""

from __future__ import annotations

import re

import pytest

from harness.wait import until
from micro_batch_handler.planning.constants import MOST_LANES
from micro_batch_handler.planning.cores import usable_cores

pytestmark = pytest.mark.server

REFUSED = [
    (
        "plain",
        {"asyncCommunication": True},
        "asyncCommunication: True cannot work with micro-batching",
    ),
    (
        "echo",
        {"micro_batching": {"parallelism": {"inference": 0}}},
        "micro_batching.parallelism.inference must be a whole number >= 1 or 'auto', found 0",
    ),
    (
        "plain",
        {"micro_batching": {"micro_batchsize": 8}},
        "micro_batching.micro_batchsize is not a known",
    ),
]
"""A handler (Plain has the mixin, Echo our class), its settings, and what the log says of them."""


@pytest.mark.parametrize(("handler", "config", "reason"), REFUSED)
def test_what_cannot_work_is_refused_at_load(server, handler, config, reason):
    """A bad setting fails the registration, the log says which, and no worker stays."""
    model = server.model(handler, config)
    before = server.processes()
    try:
        answer = model.register()

        assert answer.status_code == 500
        server.wait_for_log(reason)
    finally:
        model.unregister()
    until(lambda: server.processes() == before, "the end of the worker")
    assert server.is_healthy()


def test_a_handler_that_calls_nothing_of_ours_works(server):
    """Neither `__init__` nor `initialize` of ours is called, and the handler works all the same."""
    config = {"micro_batching": {"micro_batch_size": 1}}
    with server.model("bare", config, batch_size=2, max_batch_delay=50) as model:
        assert model.predict(data=b"you").text == "hello you"


def test_workers_that_are_added_and_those_that_run_share_the_cores(server):
    """Each says so once it has counted the others: the new one when it loads, the old one later."""

    def told():
        """The workers that have counted two."""
        return set(re.findall(rf"(W-\d+-{model.name}\S*) .* since workers are 2", server.log()))

    with server.model("plain") as model:
        assert model.scale(2).ok
        until(lambda: model.predict(json=[1, 2]).ok and len(told()) == 2, "both to count two")


def test_workers_come_and_go_with_their_model(server):
    """Scaling, unregistering and registering again start and end worker processes, all of them."""
    before = server.processes()
    with server.model("bare") as model:
        assert model.scale(2).ok
        assert len(model.worker_pids()) == 2
        assert model.unregister().ok
        until(lambda: server.processes() == before, "the end of both workers")

        assert model.register().ok
        assert model.predict(data=b"you").text == "hello you"

    until(lambda: server.processes() == before, "the end of the worker")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_cores(server, workers):
    """Also where only the registering request says how many workers there are."""
    start = server.log_sizes()["model_log.log"]

    with server.model("plain", initial_workers=workers):

        def lanes():
            told = re.findall(r", lanes PerStage\(preprocess=(\d+)", server.log(start=start))
            return told if len(told) == workers else None

        share = min(max(1, usable_cores() // workers), MOST_LANES)
        assert [str(share)] * workers == until(lanes, "what each worker logs")
