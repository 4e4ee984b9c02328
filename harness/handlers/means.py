"""Gives the mean of a few pixels of each row, so that computing costs as good as nothing."""

from micro_batch_handler import MicroBatchHandler


class Means(MicroBatchHandler):
    """Rows of images -> one number a row."""

    def initialize(self, context):
        self.initialized = True

    def inference(self, batch):
        return batch[:, 0, 0, :8].mean(dim=1)
