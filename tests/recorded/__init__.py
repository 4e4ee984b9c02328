"""What TorchServe's frontend really sends to a worker."""
