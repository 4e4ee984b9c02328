"""PlainStages as TorchServe serves it by itself."""

from plain_stages import PlainStages
from ts.torch_handler.base_handler import BaseHandler


class PlainStock(PlainStages, BaseHandler):
    pass
