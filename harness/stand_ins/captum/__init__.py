"""What TorchServe's handlers import of captum, for tests without it: names only."""
