"""CodedStages with micro-batching mixed in."""

from coded_stages import CodedStages
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin


class Coded(MicroBatchMixin, CodedStages, BaseHandler):
    pass
