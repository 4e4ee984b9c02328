"""Tests on a real TorchServe."""
