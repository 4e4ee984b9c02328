"""The tuner; only handler_runner.py and worker_process.py run a handler, all else needs none."""
