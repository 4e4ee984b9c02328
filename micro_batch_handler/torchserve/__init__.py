"""The adapter: only this folder and tools/ import TorchServe."""
