"""TorchServe's cache of metrics, whose samples go to Ray's metrics instead of log lines.

Names and labels stay. On Ray's Prometheus endpoint all names begin with `ray_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ts
from ray.util import metrics as ray_metrics
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes

from micro_batch_handler.torchserve.metrics.batch_metrics import METRICS
from micro_batch_handler.torchserve.metrics.lines import ALWAYS

__all__ = ["RayMetricsCache"]

BUCKETS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 50, 100, 500, 1000, 5000]
"""Upper bounds, of seconds, milliseconds and ratios alike."""


class RayMetricsCache(MetricsCacheYamlImpl):  # type: ignore[misc]  # ts is untyped
    """TorchServe's default metrics, this package's, and those that the handler adds."""

    def __init__(self) -> None:
        super().__init__(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
        self.initialize_cache()
        self._own: dict[str, Any] = {}
        for metric in METRICS:
            names = [*metric.dimensions, *ALWAYS]
            kind = MetricTypes(metric.kind)
            made = self.add_metric_to_cache(metric.name, metric.unit, names, kind)
            self._own[metric.name] = made

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] = [],  # noqa: B006  (TorchServe's signature)
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """As TorchServe's, with a metric of Ray's behind it."""
        super().add_metric_to_cache(metric_name, unit, dimension_names, metric_type)
        made = _RayMetric(metric_name, unit, dimension_names, metric_type)
        self.cache[metric_type][metric_name] = made
        return made

    def record(self, name: str, value: float, dimensions: Mapping[str, str]) -> None:
        """Record a sample of one of this package's metrics."""
        self._own[name].record(value, dimensions)


class _RayMetric(CachingMetric):  # type: ignore[misc]
    """Records samples with Ray instead of logging them."""

    def __init__(self, name: str, unit: str, dimension_names: list[str], kind: MetricTypes) -> None:
        super().__init__(name, unit, dimension_names, kind)
        keys = tuple(dimension_names)
        of: Any = {
            MetricTypes.COUNTER: ray_metrics.Counter,
            MetricTypes.GAUGE: ray_metrics.Gauge,
            MetricTypes.HISTOGRAM: partial(ray_metrics.Histogram, boundaries=BUCKETS),
        }
        self._metric: Any = of[kind](name, description=f"in {unit}", tag_keys=keys)
        self._record: Any = {
            MetricTypes.COUNTER: self._add,
            MetricTypes.GAUGE: getattr(self._metric, "set", None),
            MetricTypes.HISTOGRAM: getattr(self._metric, "observe", None),
        }[kind]

    def record(self, value: float, dimensions: Mapping[str, str]) -> None:
        """Record a sample, with the values of all dimensions by name."""
        self._record(value, dict(dimensions))

    def emit_metrics(self, request_id: str, value: float, dimension_string: str) -> None:  # noqa: ARG002
        """Record a sample that TorchServe's code adds; `dimension_string` is `Name:value,…`."""
        pairs = (each.partition(":") for each in dimension_string.split(",") if each)
        self.record(value, {name: text for name, _, text in pairs})

    def _add(self, value: float, tags: dict[str, str]) -> None:
        if value:  # Ray refuses 0
            self._metric.inc(value, tags)
