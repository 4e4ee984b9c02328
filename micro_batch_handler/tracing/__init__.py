"""Traces of batches: recorded, written, read, and diagnosed."""
