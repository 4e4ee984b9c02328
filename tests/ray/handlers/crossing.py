"""Answers the first request only while the second is being prepared."""

import asyncio
import logging
import threading

from micro_batch_handler import MicroBatchHandler

PATIENCE_S = 20


class Crossing(MicroBatchHandler):
    """One batch is in inference while the next is in preprocess, or the first is not answered."""

    thread_safe = True

    def initialize(self, context):
        self.second = threading.Event()
        asyncio.get_event_loop()  # which a main thread has, and other threads have not
        self.initialized = True

    def preprocess(self, data):
        words = [bytes(row["body"]).decode() for row in data]
        if "second" in words:
            self.second.set()
        return words

    def inference(self, batch):
        if "first" in batch:
            logging.getLogger(__name__).warning("first is computed")
            if not self.second.wait(PATIENCE_S):
                raise TimeoutError("nobody came")
        return batch

    def postprocess(self, outputs):
        return outputs
