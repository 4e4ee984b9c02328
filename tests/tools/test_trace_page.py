"""The picture and the page of a trace: what is on them, in a browser too."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest

pytest.importorskip("matplotlib", reason="the extra `tools` is not installed")

from micro_batch_handler.tools.pages.trace_page import shown, write
from micro_batch_handler.tracing.recording import Trace
from tests.tools.browser import look_at
from tests.tracing.traced import a_row, scheduled, setup

COSTS = [a_row(0.004), a_row(0.0012), a_row(0.0008)]
LANES = (2, 1, 1)


def failed(batch):
    """The same, with the first call failed."""
    [first, *others] = batch.calls
    return batch._replace(calls=[first._replace(failed=True), *others])


BATCHES = {
    "regrouped": scheduled(32, (4, 8, 16), COSTS, LANES, began_s=1000.0),
    "many calls": failed(scheduled(64, (1, 16, 1), COSTS, LANES)),
    "whole": scheduled(8, (8, 8, 8), COSTS, LANES),
    "short": scheduled(3, (1, 3, 3), [a_row(0.0), a_row(1e-6), a_row(0.0)], LANES),
}


def traced(*batches) -> Trace:
    """A trace of these batches, of a model whose name must not become HTML."""
    return Trace(setup(LANES, 32), batches)


@pytest.mark.parametrize("name", BATCHES)
def test_a_browser_shows_bars_and_legend_and_no_text_on_another(name, tmp_path):
    """All calls have bars, texts keep apart, nothing is wider than the page, no complaints."""
    batch = BATCHES[name]
    _, files = write(traced(batch), tmp_path)

    found, said = look_at(files[2], tmp_path)

    assert said == []
    assert len(found["bars"]) == len(batch.calls)
    assert len(found["path"]) == len(found["legend"]) == 1
    assert "critical path" in found["legend"][0].text
    split = name != "whole"
    assert bool(found["idle"]) == split
    assert ("micro-batches wait for a lane" in found["legend"][0].text) == split
    overlaps = [pair for pair in combinations(found["texts"], 2) if pair[0].overlaps(pair[1])]
    assert overlaps == []
    [scroll] = found["wide"]
    assert scroll.right <= scroll.bottom  # as wide as the window at most


def test_the_page_loads_nothing_and_says_what_holds_the_batch_up(tmp_path):
    """The sentence, every lane, and no address; names cannot become HTML."""
    trace = traced(BATCHES["regrouped"])
    named = replace(trace.setup, model="<b>cats</b>")
    trace = Trace(named, trace.batches)
    found, files = write(trace, tmp_path / "new" / "folder")
    text = files[2].read_text().replace("\N{NO-BREAK SPACE}", " ")

    assert not re.search(r"(src|href)=\"(?!#)|url\((?!#)|@import", text)
    assert found.finding in text
    assert "preprocess is the bottleneck" in found.finding
    assert all(f"mbh-{lane}" in text for lane in ("preprocess-1", "inference-0", "postprocess-0"))
    assert "&lt;b&gt;cats" in text
    assert "<b>cats" not in text
    assert len(text) < 100_000
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_the_same_trace_gives_the_same_page(tmp_path):
    """Nothing of it depends on when or where it is drawn."""
    pages = [write(traced(BATCHES["regrouped"]), tmp_path / name)[1] for name in "ab"]

    assert [file.read_bytes() for file in pages[0]] == [file.read_bytes() for file in pages[1]]


def test_the_batch_that_is_shown_is_the_median_of_the_typical_ones():
    """Not a trial, and neither the fastest nor the slowest."""
    usual = [scheduled(8, (1, 1, 1), [a_row(k * 0.01)] * 3, LANES, began_s=k) for k in (3, 1, 2)]
    trial = scheduled(8, (8, 8, 8), COSTS, LANES)

    assert shown(traced(trial, *usual)) is usual[2]
