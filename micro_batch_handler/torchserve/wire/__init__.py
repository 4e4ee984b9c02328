"""Requests and answers as they travel between TorchServe's frontend and its worker."""
