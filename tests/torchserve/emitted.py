"""Metrics as TorchServe's frontend reads them from what a worker prints."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

from ts.metrics import caching_metric
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from harness.settings import ROOT

OURS = ROOT / "metrics.yaml"
THEIRS = Path(caching_metric.__file__).parents[1] / "configs" / "metrics.yaml"
"""TorchServe's own."""

PATTERN = re.compile(
    r"\[METRICS]\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?"
    r"\|#hostname:([^,]+),([^,]+)(,(.*))?"
)
"""WorkerLifeCycle's METRIC_PATTERN and Metric's PATTERN, in TorchServe 0.12.0's frontend."""


def cache_of(path: Path = OURS) -> MetricsCacheYamlImpl:
    """The cache that a worker makes of a metrics.yaml."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file to the collector
        cache = MetricsCacheYamlImpl(str(path))
    cache.initialize_cache()
    cache.model_name = "model"
    return cache


def writes(caplog) -> list[list[str]]:
    """The lines of each log record with metrics of ours."""
    records = [record for record in caplog.records if record.name == caching_metric.__name__]
    texts = [record.getMessage() for record in records]
    return [text.splitlines() for text in texts if text.startswith("[METRICS]mbh_")]


def figures(caplog) -> dict[tuple[str, ...], float]:
    """All that was written, added up: the name and the values of its own dimensions -> sum."""
    sums: Counter[tuple[str, ...]] = Counter()
    for line in (line for lines in writes(caplog) for line in lines):
        found = PATTERN.fullmatch(line)
        assert found, line
        dimensions = dict(pair.split(":") for pair in found[4].split(","))
        own = (dimensions[name] for name in dimensions if name not in {"ModelName", "Level"})
        sums[(found[1], *own)] += float(found[3])
    return dict(sums)
