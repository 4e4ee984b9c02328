"""NvjpegStages with this package; with `hosted_stages: [preprocess, inference]`, workers finish."""

from nvjpeg_stages import NvjpegStages

from micro_batch_handler import MicroBatchHandler


class Nvjpeg(NvjpegStages, MicroBatchHandler):
    def initialize_member(self, context):
        self.initialized = True
