"""CodedStages as TorchServe serves it by itself."""

from coded_stages import CodedStages
from ts.torch_handler.base_handler import BaseHandler


class CodedBase(CodedStages, BaseHandler):
    pass
