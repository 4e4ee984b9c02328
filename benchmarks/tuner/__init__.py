"""The tuner's figures beside known costs, and what a real TorchServe then gives."""
