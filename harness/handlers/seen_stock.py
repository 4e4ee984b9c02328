"""SeenStages as TorchServe serves it by itself."""

from seen_stages import SeenStages
from ts.torch_handler.base_handler import BaseHandler


class SeenStock(SeenStages, BaseHandler):
    pass
