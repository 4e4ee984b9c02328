"""SeenStages with micro-batching mixed in."""

from seen_stages import SeenStages
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin


class Seen(MicroBatchMixin, SeenStages, BaseHandler):
    pass
