"""Doubles a number, unless the body says which stage raises what, or never returns."""

import json
import os
import threading

from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler


class Faulty(MicroBatchHandler):
    """`{"number": n, "stage": "inference", "kind": "ValueError", "text": "…"}`."""

    class Memory:
        """Of a device: freed once that is lost, it aborts the process, as PyTorch's does."""

        lost = False

        def __del__(self):
            if self.lost:
                os.abort()

    def initialize(self, context):
        self.memory = self.Memory()
        self.initialized = True

    def preprocess(self, data):
        bodies = [row.get("body") or row.get("data") for row in data]
        return self._check(
            "preprocess", [b if isinstance(b, dict) else json.loads(b) for b in bodies]
        )

    def inference(self, batch):
        rows = self._check("inference", batch)
        return [{**row, "double": 2 * row["number"]} for row in rows]

    def postprocess(self, outputs):
        return [{"double": row["double"]} for row in self._check("postprocess", outputs)]

    def _check(self, stage, rows):
        for row in rows:
            if row.get("stage") == stage:
                if row["kind"] == "hang":
                    threading.Event().wait()
                while row["kind"] == "spin":
                    pass
                raise self._error(row["kind"], row.get("text", "as asked"))
        return rows

    def _error(self, kind, text):
        if kind == "PredictionException":
            return PredictionException(text, 422)
        self.memory.lost = text.startswith("CUDA error")
        builtins = (ValueError, MemoryError, RuntimeError, StopIteration)
        builtins += (LookupError, ArithmeticError)  # of one test each, so that they are logged
        builtins += (SystemExit, KeyboardInterrupt, BaseException)
        return {each.__name__: each for each in builtins}[kind](text)
