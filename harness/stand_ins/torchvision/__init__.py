"""What TorchServe's image handlers ask of torchvision, for tests without it."""

from . import transforms

__all__ = ["transforms"]

__version__ = "0.20.0"
