"""NvjpegStages as TorchServe serves it by itself."""

from nvjpeg_stages import NvjpegStages
from ts.torch_handler.base_handler import BaseHandler


class NvjpegBase(NvjpegStages, BaseHandler):
    pass
