"""Numbers in TorchServe's own micro-batching, with the one line changed."""

import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatching


class Stock(BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self)

    def initialize(self, context):
        section = context.model_yaml_config["micro_batching"]
        self.handle.parallelism = section["parallelism"]
        self.handle.micro_batch_size = section["micro_batch_size"]
        self.device = torch.device("cpu")

    def preprocess(self, data):
        return torch.tensor([row["body"]["number"] for row in data])

    def inference(self, batch):
        return batch * 3 + 1
