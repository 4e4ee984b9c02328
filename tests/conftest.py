"""What every test gets: a check that no thread is left behind."""

from __future__ import annotations

import gc
import threading

import pytest

from micro_batch_handler.config import MicroBatchingConfig


def lanes() -> set[threading.Thread]:
    """All living lanes."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("mbh-")}


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    """A test ends with the lanes it began with; a forgotten handler's lanes end by collection."""
    before = lanes()
    yield
    gc.collect()
    for thread in lanes() - before:
        thread.join(10)
    assert not lanes() - before


@pytest.fixture
def config_of():
    """Makes a checked config from the keys of a `micro_batching:` section."""
    return lambda **section: MicroBatchingConfig.from_section(section)
