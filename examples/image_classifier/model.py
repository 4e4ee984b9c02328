"""EfficientNet-Lite0 as TorchServe loads it: one class, built without arguments."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params


class EfficientNetLite0(EfficientNet):
    """The 1000-class ImageNet network; TorchServe fills in the weights of --serialized-file."""

    def __init__(self) -> None:
        # A subclass rather than a wrapper: the names in the weights file stay as they are.
        super().__init__(*get_model_params("efficientnet-lite0", None))
