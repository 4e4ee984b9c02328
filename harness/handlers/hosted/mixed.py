"""Gives a number back, unless the body says what its inference does instead."""

import threading

import torch

from micro_batch_handler import MicroBatchHandler

KINDS = ("good", "poison", "hang", "memory", "device")
COLUMNS = 1000


class Mixed(MicroBatchHandler):
    """`{"number": n, "kind": "poison"}`."""

    def initialize(self, context):
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, data):
        rows = [[row["body"]["number"], KINDS.index(row["body"]["kind"])] for row in data]
        return torch.tensor(rows, dtype=torch.float64).repeat(1, COLUMNS)

    def inference(self, batch):
        kinds = {KINDS[int(kind)] for kind in batch[:, 1].tolist()}
        if "device" in kinds:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if "hang" in kinds:
            threading.Event().wait()
        if "memory" in kinds:
            raise torch.OutOfMemoryError("out of memory")
        if "poison" in kinds:
            raise ValueError("this model does not like one of these rows")
        return batch[:, ::2].mean(dim=1)

    def postprocess(self, outputs):
        return [{"number": round(number)} for number in outputs.tolist()]
