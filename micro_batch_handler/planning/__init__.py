"""Sizes for batches: learned, predicted, chosen; knows nothing of threads or TorchServe."""
