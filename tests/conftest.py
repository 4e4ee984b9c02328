"""What every test gets: a check that no thread is left behind."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import settings

from micro_batch_handler.config import MicroBatchingConfig
from micro_batch_handler.pipeline import memory

pytest_plugins = ["harness.fixtures"]

settings.register_profile("no timing is asserted", deadline=None)
settings.load_profile("no timing is asserted")


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
def config_of():
    """Makes a checked config from the keys of a `micro_batching:` section."""
    return lambda **section: MicroBatchingConfig.from_section(section)


@pytest.fixture
def quick_turns(monkeypatch):
    """Threads take turns often; nothing is collected or logged.

    Collecting garbage is slow, and records of the log hold errors, and these the frames of their
    threads.
    """
    logging.disable(logging.CRITICAL)
    monkeypatch.setattr(memory, "gc", SimpleNamespace(collect=lambda _: 0))
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before_s)
    logging.disable(logging.NOTSET)
