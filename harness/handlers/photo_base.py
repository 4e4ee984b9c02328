"""PhotoStages as TorchServe serves it by itself."""

from photo_stages import PhotoStages
from ts.torch_handler.base_handler import BaseHandler


class PhotoBase(PhotoStages, BaseHandler):
    pass
