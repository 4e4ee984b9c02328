"""The repository's config.properties and log4j2.xml on a real TorchServe."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.settings import OVERRIDES
from harness.torchserve import TorchServe
from harness.wait import until

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("java")]

REQUESTS = 3
LINE = '"POST /predictions/'


@contextmanager
def shipped(**environment: str):
    """A server that has just answered some requests, one after the other."""
    with (
        TorchServe(OVERRIDES, environment, shipped=True) as server,
        server.model("faulty") as model,
    ):
        for number in range(REQUESTS):
            model.predict(json={"number": number}).raise_for_status()
        yield server


def test_batches_are_handed_over_by_a_pool_and_requests_logged():
    """The frontend makes no thread for each batch, as Java would on one or two cores."""
    with shipped() as server:
        # As Linux has the names: cut to 15 letters.
        tasks = Path(f"/proc/{server.frontend_pid}/task").glob("*/comm")
        names = [task.read_text(encoding="utf-8") for task in tasks]
        until(
            lambda: server.log("access_log.log").count(LINE) == REQUESTS, "a line for each request"
        )

    assert any(name.startswith("ForkJoinPool") for name in names)


def test_the_access_log_can_be_turned_off():
    """An environment variable leaves out the line of each request; other logs stay."""
    with shipped(ACCESS_LOG_LEVEL="off") as server:
        server.wait_for_log("micro-batching")

        assert LINE not in server.log("access_log.log")
