"""Answers with what its worker reads batches with, and with the body that was read."""

import sys

from micro_batch_handler import MicroBatchHandler


class Reader(MicroBatchHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [repr(row["body"]) for row in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        reader = type(sys.modules["__main__"].retrieve_msg).__name__
        return [{"reader": reader, "body": body} for body in outputs]
