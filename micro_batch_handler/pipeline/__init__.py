"""The engine: a batch in, outcomes out; knows nothing of TorchServe."""
