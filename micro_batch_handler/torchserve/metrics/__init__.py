"""What batches add to the metrics, and the lines that TorchServe's frontend reads."""
