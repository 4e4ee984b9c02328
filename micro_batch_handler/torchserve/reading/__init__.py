"""Reads a handler's source, without running it; imports neither torch nor TorchServe."""
