"""Loads the pytest plugin that tests/ and the tests in benchmarks/ share."""

pytest_plugins = ["harness.fixtures"]
