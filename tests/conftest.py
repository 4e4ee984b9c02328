"""Fixtures of the tests of the package."""

from __future__ import annotations

import logging
import sys
import tempfile
from types import SimpleNamespace

import pytest
from hypothesis import settings

from micro_batch_handler.config import MicroBatchingConfig
from micro_batch_handler.pipeline import memory

settings.register_profile("no timing is asserted", deadline=None)
settings.load_profile("no timing is asserted")


@pytest.fixture
def config_of():
    """Makes a checked config from the keys of a `micro_batching:` section."""
    return lambda **section: MicroBatchingConfig.from_section(section)


@pytest.fixture
def short_temporary_folder(monkeypatch):
    """A folder in which a host that was killed may leave its socket."""
    with tempfile.TemporaryDirectory(prefix="mbh-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


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
