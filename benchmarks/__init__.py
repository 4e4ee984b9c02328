"""Benchmarks, each a command; README.md has their figures."""
