"""The tests of handlers that share their model."""
