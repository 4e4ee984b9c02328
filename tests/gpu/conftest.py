"""Skips the tests of this folder where there is no GPU, and notes how each ended."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.lack import lack
from tests.gpu.report import ENTRIES, Entries

HERE = Path(__file__).parent

entries = Entries(Path(os.environ[ENTRIES])) if ENTRIES in os.environ else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; pytest hands over those of other folders as well."""
    missing = lack()
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.gpu)
        # What torch warns of on a GPU depends on the GPU and its driver.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the outcome down at once: a lost device may take the process with it."""
    report = yield
    if entries is not None and (report.when == "call" or report.outcome != "passed"):
        entries.test(item.name, item.obj.__doc__, report.outcome, report.duration)
    return report


@pytest.fixture
def note() -> Any:
    """Writes a row of figures into the report's table of this title."""

    def note(title: str, **figures: object) -> None:
        if entries is not None:
            entries.figures(title, figures)

    return note


@pytest.fixture
def bench() -> Iterator[Any]:
    """The GPU, as tests/gpu/benches.py sees it."""
    from tests.gpu.benches import GpuBench

    yield (bench := GpuBench())
    bench.close()
