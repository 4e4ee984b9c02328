"""PlainStages with micro-batching mixed in; its `initialize` is called by ours."""

from plain_stages import PlainStages
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin


class Plain(MicroBatchMixin, PlainStages, BaseHandler):
    pass
