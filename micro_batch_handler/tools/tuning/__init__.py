"""The tuner; only handler_runner.py and workers.py run a handler, all else needs none."""
