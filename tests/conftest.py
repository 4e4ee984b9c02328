"""What every test gets: a check that no thread is left behind."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from micro_batch_handler.config import MicroBatchingConfig

pytest_plugins = ["tests.server.fixtures"]


def lanes() -> set[threading.Thread]:
    """All living lanes."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("mbh-")}


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    """A test ends with the lanes it began with; a forgotten handler's lanes end by collection."""
    before = lanes()
    yield
    gc.collect()
    patience_s = 10.0
    for thread in lanes() - before:
        started_s = time.monotonic()
        thread.join(max(0.0, patience_s))
        patience_s -= time.monotonic() - started_s
    assert not lanes() - before


@pytest.fixture
def config_of():
    """Makes a checked config from the keys of a `micro_batching:` section."""
    return lambda **section: MicroBatchingConfig.from_section(section)
