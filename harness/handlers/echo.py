"""Answers each request with its own number, calculated on, and with how it travelled."""

import itertools
import json
import threading

import torch

import micro_batch_handler
from micro_batch_handler import MicroBatchHandler


class Echo(MicroBatchHandler):
    """`{"number": n}` gives 3 n + 1, with what each stage saw of this request."""

    def initialize(self, context):
        # Without a call of super(): there is no model to load.
        self.batches = 0
        self.calls = itertools.count()
        self.initialized = True

    def handle(self, data, context):
        self.batches += 1
        self.rows = len(data)
        return super().handle(data, context)

    def preprocess(self, data):
        bodies = [row.get("body") or row.get("data") for row in data]
        numbers = [(b if isinstance(b, dict) else json.loads(b))["number"] for b in bodies]
        places = range(len(data))
        return {
            "number": torch.tensor(numbers, dtype=torch.int64)[:, None],
            "id": [self.context.get_request_id(place) for place in places],
            "tag": [self.context.get_request_header(place, "x-tag") for place in places],
            "preprocess": [self._call(len(data))] * len(data),
        }

    def inference(self, batch):
        result = batch["number"] @ torch.tensor([[3]]) + 1
        return {**batch, "result": result, "inference": [self._call(len(result))] * len(result)}

    def postprocess(self, outputs):
        rows = len(outputs["result"])
        call = self._call(rows)
        return [
            {
                "result": int(outputs["result"][place]),
                "tag": outputs["tag"][place],
                "ids": [outputs["id"][place], self.context.get_request_id(place)],
                "batch": {"number": self.batches, "rows": self.rows},
                "calls": {
                    "preprocess": outputs["preprocess"][place],
                    "inference": outputs["inference"][place],
                    "postprocess": call,
                },
            }
            for place in range(rows)
        ]

    def describe_handle(self):
        return {"package": micro_batch_handler.__file__}

    def _call(self, rows):
        """Which call this is, of all; how many rows it got; which thread made it."""
        return {
            "number": next(self.calls),
            "rows": rows,
            "thread": threading.current_thread().name,
        }
