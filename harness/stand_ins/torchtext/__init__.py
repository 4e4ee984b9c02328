"""What TorchServe's text handler asks of torchtext, for tests without it."""
