"""Metrics as the lines that TorchServe's frontend reads from a worker, as few as possible.

TorchServe's cache of metrics writes a log record for each sample, with the ids of all requests, and
its frontend parses each line by regular expressions. So samples are added up here and many are
written at once (`python -m benchmarks.metric_lines` measures what that saves). The cache knows what
the server's metrics.yaml declares, and the lines go to its logger.

    counter      one line, the sum since the last write
    gauge        one line, the latest sample
    histogram    a line for each sample, since the frontend sorts them into buckets
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from ts.metrics import caching_metric
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes

__all__ = ["Metric", "MetricLines", "Sample"]

logger = logging.getLogger(__name__)

metrics_logger = logging.getLogger(caching_metric.__name__)
"""The logger of TorchServe's own metrics: whoever redirects them redirects these, too."""

ALWAYS = ("ModelName", "Level")
"""The dimensions of every metric of a model, last; the frontend adds the name of the host."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric as metrics.yaml declares it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    dimensions: tuple[str, ...] = ()
    """Its own; all metrics have `ALWAYS`, too."""


Sample: TypeAlias = "tuple[Metric, float, tuple[str, ...]]"
"""A metric, a value of it, and the values of the metric's own dimensions."""


Record: TypeAlias = Callable[[str, float, Mapping[str, str]], None]
"""Takes a sample: the metric's name, the value, and the values of all dimensions by name."""


class MetricLines:
    """Collects samples, and writes all of them at once. Any thread may use it.

    Args:
        cache: TorchServe's cache of metrics in this worker. It knows what the server's metrics.yaml
            declares, and the model's name. One with a method `record` gets each sample by that, and
            no lines are written.
        metrics: all that there may be samples of; lines are written in this order.
        undeclared: whether to write metrics that metrics.yaml does not declare, too. A frontend
            with `model_metrics_auto_detect=true` takes them.
    """

    def __init__(
        self, cache: MetricCacheAbstract, metrics: Sequence[Metric], *, undeclared: bool
    ) -> None:
        self._model = str(cache.model_name)
        self._host = socket.gethostname()
        self._record: Record | None = getattr(cache, "record", None)
        self.declared = {
            metric: declared
            for metric in metrics
            if (declared := _declared(cache, metric, undeclared=undeclared)) is not None
        }
        """The metrics that are written, as metrics.yaml declares them."""
        self._around = lru_cache(maxsize=None)(self._text_around)  # metrics are few
        self._lock = threading.Lock()
        self._samples = self._none()

    def add(self, samples: Iterable[Sample]) -> None:
        """Take samples; all of them go into the same write."""
        with self._lock:
            for metric, value, dimensions in samples:
                found = self._samples.get(metric)
                if found is None:
                    continue
                values = found.setdefault(dimensions, [])
                if metric.kind == "histogram" or not values:
                    values.append(value)
                else:
                    values[0] = value + values[0] if metric.kind == "counter" else value

    def write(self) -> None:
        """Write all samples for the frontend."""
        with self._lock:
            now_s = int(time.time())
            samples = [
                (metric, dimensions, value)
                for metric, found in self._samples.items()
                for dimensions, values in found.items()
                for value in values
            ]
            self._samples = self._none()
            if self._record is not None:
                for metric, dimensions, value in samples:
                    self._record(metric.name, value, self._named(metric, dimensions))
                return
            lines = [
                f"{begin}{_shown(value)}{end}{now_s}"
                for metric, dimensions, value in samples
                for begin, end in [self._around(metric, dimensions)]
            ]
            # Inside the lock, so that a later write cannot overtake this one.
            if lines:
                metrics_logger.info("\n".join(lines))

    def _named(self, metric: Metric, dimensions: tuple[str, ...]) -> dict[str, str]:
        """The values of all dimensions, by name."""
        names = (*metric.dimensions, *ALWAYS)
        return dict(zip(names, (*dimensions, self._model, "Model"), strict=True))

    def _none(self) -> dict[Metric, dict[tuple[str, ...], list[float]]]:
        return {metric: {} for metric in self.declared}

    def _text_around(self, metric: Metric, dimensions: tuple[str, ...]) -> tuple[str, str]:
        """The text of a line before the value, and the text between it and the time."""
        declared = self.declared[metric]
        values = self._named(metric, dimensions)
        shown = ",".join(f"{name}:{values[name]}" for name in declared.dimension_names)
        return (
            f"[METRICS]{declared.metric_name}.{declared.unit}:",
            f"|#{shown}|#type:{declared.metric_type.name}|#hostname:{self._host},",
        )


def _shown(value: float) -> str:
    """A value without exponent, since the frontend's pattern for values has no plus sign."""
    return str(value) if isinstance(value, int) else f"{value:.6f}"


def _declared(
    cache: MetricCacheAbstract, metric: Metric, *, undeclared: bool
) -> CachingMetric | None:
    """The metric as metrics.yaml declares it; or else as it should, if `undeclared` are written."""
    kind, known = MetricTypes(metric.kind), [*metric.dimensions, *ALWAYS]
    try:
        found = cache.get_metric(metric.name, kind)
    except KeyError:
        return CachingMetric(metric.name, metric.unit, known, kind) if undeclared else None
    unknown = [name for name in found.dimension_names if name not in known]
    if unknown:
        # The frontend reads values by their place, and refuses a line that has too few.
        logger.warning(
            "metrics.yaml declares %s with dimension %s; it has %s. It is not written",
            metric.name,
            ", ".join(unknown),
            ", ".join(known),
        )
        return None
    return found
