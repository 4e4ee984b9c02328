"""What the tuner tells: as text, as a page in a browser, and as a picture."""

from __future__ import annotations

import pytest

from harness.simulated import Machine, linear
from harness.tuned import SimulatedRunner
from micro_batch_handler.config import MicroBatchingConfig, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.report import report
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune
from tests.tools.browser import look_at

GIVEN = Setting(8, Plan(1, 8, 8), PerStage(2, 1, 1))


@pytest.fixture(scope="module")
def tuning():
    """A result with a limit that settings keep to, and one that none does."""
    costs = [linear(0.0005, 0.006), linear(0.006, 0.002), linear(0.0003, 0.0004)]
    runner = SimulatedRunner(Machine(costs, cores=2, noise=0.02))
    space = Space(MicroBatchingConfig(), [1, 2, 4, 8, 16], PerStage(2, 1, 2), 2)
    budget = TimeBudget(20, now_s=lambda: runner.now_s)
    return tune(runner, GIVEN, space, goals(120, 100), budget, Load())


def test_the_text_has_figures_settings_and_reasons(tuning):
    """Predicted beside measured, yaml for each goal that is reached, and what comes next."""
    told = report(tuning)

    assert "as it is: 8 in 1/8/8, lanes 2/1/1" in told
    assert "For at most 100 MiB: no setting that was run keeps to it." in told
    assert "    batchSize: 8\n" in told
    assert told.count("While a batch runs, the lanes are busy: ") == 2
    assert "preprocess is the bottleneck: its 2 lanes were busy" in told
    assert "postprocess would run in more threads than now" in told


def test_a_browser_shows_the_page_without_complaint(tuning, tmp_path):
    """Headings, the legend and both tables are there, nothing is wider than the window."""
    pytest.importorskip("matplotlib")
    from micro_batch_handler.tools.pages.tuning_page import written

    page, picture = written(tuning, "<model> & more", "made by a test", tmp_path / "page.html")

    assert picture.read_bytes().startswith(b"\x89PNG")
    boxes, said = look_at(page, tmp_path)
    assert not said
    texts = {box.text for box in boxes["texts"]}
    assert {"<model> & more", "Figures", "All that was run", "as it is", "run"} <= texts
    assert {"p99 latency (ms)", "For p99 at most 120 ms"} <= texts
    (wide,) = boxes["wide"]
    assert wide.right <= wide.bottom
