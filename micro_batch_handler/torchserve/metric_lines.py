"""Metrics as the lines that TorchServe's frontend reads from a worker, many in one write.

TorchServe's cache of metrics prints each figure as a log record of its own, with the ids of all
requests. Those of a batch take its worker and its frontend ten times as long as the same lines in
one record (`python -m benchmarks.metric_lines`). So the cache is asked what the server's
metrics.yaml declares, and the lines are written here, to its logger.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ts.metrics import caching_metric
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes

__all__ = ["Metric", "MetricLines"]

logger = logging.getLogger(__name__)

metrics_logger = logging.getLogger(caching_metric.__name__)
"""Where TorchServe's own metrics go, so that whoever redirects them has these, too."""

ALWAYS = ("ModelName", "Level")
"""The dimensions of every metric of a model, last; the frontend adds the name of the host."""


@dataclass(frozen=True, eq=False)
class Metric:
    """What metrics.yaml says of one metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    dimensions: tuple[str, ...] = ()
    """Besides those that every metric has."""


class MetricLines:
    """Collects figures, and writes them all at once. Use it in one thread.

    Args:
        cache: TorchServe's, of this worker: what the server's metrics.yaml declares, and the name
            of the model.
        metrics: that may be added to.
        undeclared: whether to write those that metrics.yaml does not declare, too; a frontend with
            `model_metrics_auto_detect=true` takes them.
    """

    def __init__(
        self, cache: MetricCacheAbstract, metrics: Sequence[Metric], *, undeclared: bool
    ) -> None:
        self._model = str(cache.model_name)
        self._host = socket.gethostname()
        self._declared = {
            metric: declared
            for metric in metrics
            if (declared := _declared(cache, metric, undeclared=undeclared)) is not None
        }
        self._ends: dict[tuple[Metric, tuple[str, ...]], tuple[str, str]] = {}
        self._lines: list[str] = []

    @property
    def names(self) -> list[str]:
        """What will be written."""
        return [metric.name for metric in self._declared]

    def add(self, metric: Metric, value: float, *dimensions: str) -> None:
        """A figure of one metric, for these values of its own dimensions."""
        if metric not in self._declared:
            return
        key = metric, dimensions
        ends = self._ends.get(key)
        if ends is None:
            ends = self._ends[key] = self._around(metric, dimensions)
        # No exponent: the frontend's pattern for values has no plus sign.
        shown = value if isinstance(value, int) else f"{value:.6f}"
        self._lines.append(f"{ends[0]}{shown}{ends[1]}")

    def write(self) -> None:
        """Hand all figures to the frontend."""
        if self._lines:
            now_s = int(time.time())
            metrics_logger.info("\n".join([f"{line}{now_s}" for line in self._lines]))
            self._lines.clear()

    def _around(self, metric: Metric, dimensions: Sequence[str]) -> tuple[str, str]:
        """What stands before the value, and between it and the time."""
        declared = self._declared[metric]
        values = dict(zip(metric.dimensions, dimensions, strict=True))
        values.update(zip(ALWAYS, (self._model, "Model"), strict=True))
        shown = ",".join(f"{name}:{values[name]}" for name in declared.dimension_names)
        return (
            f"[METRICS]{declared.metric_name}.{declared.unit}:",
            f"|#{shown}|#type:{declared.metric_type.name}|#hostname:{self._host},",
        )


def _declared(
    cache: MetricCacheAbstract, metric: Metric, *, undeclared: bool
) -> CachingMetric | None:
    """The metric as metrics.yaml has it; as it ought to be, if it may be missing there."""
    kind, known = MetricTypes(metric.kind), [*metric.dimensions, *ALWAYS]
    try:
        found = cache.get_metric(metric.name, kind)
    except KeyError:
        return CachingMetric(metric.name, metric.unit, known, kind) if undeclared else None
    unknown = [name for name in found.dimension_names if name not in known]
    if unknown:
        # The frontend takes values by their place, and refuses a line that has too few.
        logger.warning(
            "metrics.yaml declares %s with dimension %s; it has %s. It is not written",
            metric.name,
            ", ".join(unknown),
            ", ".join(known),
        )
        return None
    return found
