"""The stages in TorchServe's own micro-batching, wired as its README says."""

from typing import Any

from stages import Stages
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class Stock(Stages, BaseHandler):
    """TorchServe's MicroBatching around a BaseHandler."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = MicroBatching(self)

    def initialize(self, context: Any) -> None:
        """Load the model, then set sizes and threads."""
        super().initialize(context)
        section = context.model_yaml_config["micro_batching"]
        self.handle.parallelism = section["parallelism"]
        self.handle.micro_batch_size = section["micro_batch_size"]
