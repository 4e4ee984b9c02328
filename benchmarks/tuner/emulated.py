"""A handler whose stages only sleep, for as long as model-config.yaml says."""

from __future__ import annotations

import fcntl
import time
from contextlib import ExitStack
from typing import Any

from micro_batch_handler import MicroBatchHandler


class Handler(MicroBatchHandler):
    """A call on k rows sleeps for `fixed_ms + row_ms * k`, both from `handler.costs_ms`.

    With `handler.accelerator`, a file, inference sleeps while it holds that file's lock: all
    processes share an accelerator, which works on one call at a time. With `handler.model_mib` it
    holds so much memory, which workers that share the model do not.
    """

    def initialize(self, context: Any) -> None:
        """Read the costs, and make a model of so many bytes."""
        self.initialize_member(context)
        self.model = bytearray(b"1") * (int(self.settings.get("model_mib", 0)) * 2**20)

    def initialize_member(self, context: Any) -> None:
        """Read the costs."""
        self.context = context
        self.settings = context.model_yaml_config["handler"]
        self.costs_ms = self.settings["costs_ms"]

    def preprocess(self, data: list[Any]) -> list[int]:
        """The length of each body."""
        self._take("preprocess", len(data))
        return [len(row.get("body") or row.get("data") or b"") for row in data]

    def inference(self, batch: list[int]) -> list[int]:
        """The same lengths."""
        with ExitStack() as stack:
            if "accelerator" in self.settings:
                lock = stack.enter_context(open(self.settings["accelerator"]))  # noqa: PTH123
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._take("inference", len(batch))
        return batch

    def postprocess(self, outputs: list[int]) -> list[int]:
        """The same lengths."""
        self._take("postprocess", len(outputs))
        return outputs

    def _take(self, stage: str, rows: int) -> None:
        fixed_ms, row_ms = self.costs_ms[stage]
        time.sleep((fixed_ms + row_ms * rows) / 1000)
