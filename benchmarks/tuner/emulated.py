"""A handler whose stages only sleep, for as long as model-config.yaml says."""

from __future__ import annotations

import time
from typing import Any

from micro_batch_handler import MicroBatchHandler


class Handler(MicroBatchHandler):
    """A call on k rows sleeps for `fixed_ms + row_ms * k`, both from `handler.costs_ms`."""

    def initialize(self, context: Any) -> None:
        """Read the costs; there is no model."""
        self.context = context
        self.costs_ms = context.model_yaml_config["handler"]["costs_ms"]

    def preprocess(self, data: list[Any]) -> list[int]:
        """The length of each body."""
        self._take("preprocess", len(data))
        return [len(row.get("body") or row.get("data") or b"") for row in data]

    def inference(self, batch: list[int]) -> list[int]:
        """The same lengths."""
        self._take("inference", len(batch))
        return batch

    def postprocess(self, outputs: list[int]) -> list[int]:
        """The same lengths."""
        self._take("postprocess", len(outputs))
        return outputs

    def _take(self, stage: str, rows: int) -> None:
        fixed_ms, row_ms = self.costs_ms[stage]
        time.sleep((fixed_ms + row_ms * rows) / 1000)
