"""The tuner compared with known costs, and on a real TorchServe."""
