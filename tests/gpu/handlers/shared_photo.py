"""PhotoStages with this package; with `share_model`, workers prepare and finish only."""

import torch
from photo_stages import PhotoStages

from micro_batch_handler import MicroBatchHandler


class SharedPhoto(PhotoStages, MicroBatchHandler):
    def initialize_member(self, context):
        section = context.model_yaml_config.get("handler") or {}
        self.raw, self.to_device = section.get("raw", False), False
        torch.set_num_threads(1)
        self.initialized = True
