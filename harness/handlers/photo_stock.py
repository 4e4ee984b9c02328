"""PhotoStages in TorchServe's own micro-batching, wired as its README says."""

from photo_stages import PhotoStages
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class PhotoStock(PhotoStages, BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self)

    def initialize(self, context):
        super().initialize(context)
        section = context.model_yaml_config["micro_batching"]
        self.handle.parallelism = section["parallelism"]
        self.handle.micro_batch_size = section["micro_batch_size"]
