"""The device copies in, computes and copies out at the same time."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.contestants import Contestant
from tests.gpu.overlap import all_at_once
from tests.gpu.photos import photo
from tests.gpu.timeline import busy_ms, read_trace, together_ms

COLUMNS = 2**25
"""128 MiB a micro-batch: some milliseconds on any bus."""


def test_three_micro_batches_are_on_the_device_at_once(bench, monkeypatch, note):
    """By the device's own clock, a copy in, a computation and a copy out take place at once."""
    spans = all_at_once(bench, monkeypatch, COLUMNS, compute_ms=300)

    def of(kind, number):
        return [span for span in spans if (span.kind, span.number) == (kind, number)]

    groups = of("copy in", 2), of("compute", 1), of("copy out", 0)
    found = {
        "copy in, ms": busy_ms(groups[0]),
        "compute, ms": busy_ms(groups[1]),
        "copy out, ms": busy_ms(groups[2]),
        "copies at once, ms": together_ms(groups[0], groups[2]),
        "all three at once, ms": together_ms(*groups),
    }
    note("Overlap of three micro-batches, by events", **found)
    assert found["all three at once, ms"] > 0, spans


def test_a_trace_shows_copies_from_pinned_memory_beside_compute(bench, note, tmp_path):
    """A profiler sees ResNet-50 compute while photos come in, all through pinned memory."""
    section = {
        "micro_batch_size": {"preprocess": 2, "inference": 8, "postprocess": 8},
        "parallelism": {"preprocess": 4},
        "device": {"copy_out": True},
        "stage_timeout": None,
    }
    ours = Contestant("ours", "photo", section, {"to_device": False})
    bodies = [photo(number) for number in range(64)]
    ours.load(len(bodies), 0, tiny=False)
    try:
        ours.answers(bodies)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            ours.answers(bodies)
            torch.cuda.synchronize()
    finally:
        ours.close()
    path = tmp_path / "trace.json"
    profile.export_chrome_trace(str(path))
    spans = read_trace(path)
    if not spans:
        pytest.skip("the profiler sees nothing of the device: CUPTI is not permitted here, perhaps")
    copies_in = [span for span in spans if span.kind == "copy in"]
    copies_out = [span for span in spans if span.kind == "copy out"]
    compute = [span for span in spans if span.kind == "compute"]
    note(
        "Overlap with ResNet-50, by the profiler's trace",
        **{
            "copies in": len(copies_in),
            "copies out": len(copies_out),
            "compute, ms": busy_ms(compute),
            "copies in, ms": busy_ms(copies_in),
            "of these beside compute, ms": together_ms(copies_in, compute),
            "streams of copies in": sorted({span.number for span in copies_in}),
            "streams of compute": sorted({span.number for span in compute}),
            "streams of copies out": sorted({span.number for span in copies_out}),
        },
    )
    assert copies_in
    assert copies_out
    assert not [span.name for span in copies_in + copies_out if "Pageable" in span.name]
    assert together_ms(copies_in, compute) > 0
    assert not {span.number for span in copies_in} & {span.number for span in compute}
    assert not {span.number for span in copies_out} & {span.number for span in copies_in}
