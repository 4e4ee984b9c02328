"""A handler whose `__init__` and `initialize` call nobody's, as many users write them."""

from micro_batch_handler import MicroBatchHandler


class Bare(MicroBatchHandler):
    def __init__(self):
        self.greeting = None

    def initialize(self, context):
        self.greeting = "hello"

    def preprocess(self, data):
        return [bytes(row["body"]).decode() for row in data]

    def inference(self, batch):
        return [f"{self.greeting} {name}" for name in batch]

    def postprocess(self, outputs):
        return outputs
