"""How a process ends that cannot serve any more."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENDING = """\
import os
import socket

from micro_batch_handler.torchserve.routed import route
from micro_batch_handler.torchserve.views import routes_of
from micro_batch_handler.torchserve.worker_exit import end_at_next_batch
from tests.fakes import fake_context

context = fake_context(1)
context.cl_socket = socket.socketpair()[0]
route(context)
routes_of(context).several_batches = {several}
print(end_at_next_batch(context), end_at_next_batch(context), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("several", [False, True])
def test_the_next_batch_ends_it_only_where_no_other_is_under_way(several):
    """TorchServe sends a batch when the last is answered; on Ray other answers would be lost."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(several=several)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [str(not several)] * 2
    assert done.stderr.count("cannot serve any more") == 1
