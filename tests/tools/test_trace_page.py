"""The picture and the page of a trace: what is on them, in a browser too."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest

pytest.importorskip("matplotlib", reason="the extra `tools` is not installed")

from micro_batch_handler.tools.pages.trace_page import shown, write
from micro_batch_handler.tracing.host_use import host_bars
from micro_batch_handler.tracing.recording import Trace
from tests.tools.browser import look_at
from tests.tracing.traced import a_row, hosted, scheduled, setup

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


def members(count):
    """Traces of workers that share each host call, a quarter of a second apart."""
    batches = [
        hosted(16, began_s=100.0 - late_s, prepare_s=1.0 + late_s, others=4 * (count - 1))
        for late_s in (0.25 * number for number in range(count))
    ]
    return [Trace(setup((1, 4, 1), 32), [batch]) for batch in batches]


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


@pytest.mark.parametrize("count", [1, 3])
def test_the_lane_of_the_model_host_stands_under_those_of_its_members(count, tmp_path):
    """Each host call has one bar, whose tip tells its rows; several workers are told apart."""
    trace, *others = members(count)
    _, files = write(trace, tmp_path, others)

    found, said = look_at(files[2], tmp_path)

    assert said == []
    bars = found["hosts"]
    # The members' first micro-batches come later one by one, so that only those share calls.
    assert len(bars) == len(
        host_bars((0, c) for one in members(count) for c in one.batches[0].calls)
    )
    assert min(bar.top for bar in bars) > max(bar.bottom for bar in found["bars"])
    whose = "this worker" if count == 1 else "these workers"
    tips = [tip.text for tip in found["tips"]]
    assert any(tip.startswith("host call of ") and tip.endswith(whose) for tip in tips), tips
    assert any("waiting in the model host, then computed in 2,000 ms with" in tip for tip in tips)
    overlaps = [pair for pair in combinations(found["texts"], 2) if pair[0].overlaps(pair[1])]
    assert overlaps == []
    legend = found["legend"][0]
    assert "a call waits for the model host" in legend.text
    assert ("worker 3" in legend.text) == (count > 1)
    assert legend.right <= 1200
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_a_worker_without_a_batch_at_that_time_has_no_rows(tmp_path):
    """It was traced before or after the batch that is shown."""
    [trace] = members(1)
    late = hosted(8, began_s=500.0)
    _, files = write(trace, tmp_path, [Trace(trace.setup, [late])])

    assert "2: preprocess-0" not in files[2].read_text()
    assert "1: preprocess-0" in files[2].read_text()


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

    assert shown([traced(trial, *usual)]) == (0, usual[2])
