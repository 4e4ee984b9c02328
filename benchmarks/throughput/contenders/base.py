"""The stages as TorchServe serves them by itself."""

from stages import Stages
from ts.torch_handler.base_handler import BaseHandler


class Base(Stages, BaseHandler):
    """BaseHandler."""
