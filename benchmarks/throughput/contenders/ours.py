"""The stages with this package's micro-batching mixed in."""

from stages import Stages
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin


class Ours(MicroBatchMixin, Stages, BaseHandler):
    """MicroBatchHandler."""
