"""On a real TorchServe: handlers that must not be cut answer as they do alone, one of each kind."""

from __future__ import annotations

import json
import os

import pytest

from harness.alone import answers_alone, folder_of
from harness.archives import pack_plain
from harness.crowd import together
from harness.kinds import KINDS, told, verdict
from harness.model import Packed
from micro_batch_handler.__main__ import main

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("as_before")]

CLIENTS = 16
ROUNDS = 4
BAD_EVERY = 5

ONE_OF_EACH = (
    "context_kept",
    "state_list",
    "shape_loss",
    "shape_onnx",
    "stream_words",
    "thread_sqlite",
    "handle_bare",
    "names_of_hooks",
)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ONE_OF_EACH], ids=lambda kind: kind.name
)
def test_clients_at_once_get_what_each_gets_alone(server, kind, tmp_path):
    """Sixteen clients, several rounds, a fifth of the requests bad: every answer is its own."""
    numbers = range(CLIENTS * ROUNDS)
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in numbers}
    expected = answers_alone(folder_of(kind, tmp_path, kind.file.name), asked, kind.headers)
    name = f"kind-{kind.name}-{os.getpid()}"
    archive = pack_plain(
        name,
        str(kind.file),
        {"micro_batching": dict(kind.section)},
        server.model_store,
        kind.extra_files,
    )
    assert main(["wrap", str(archive)]) == 0

    def ask(number):
        return told(model.predict(**asked[number]), kind.headers, streams=kind.streams)

    def client(number):
        return [(n, ask(n)) for n in numbers if n % CLIENTS == number]

    with Packed(server, archive, batch_size=8, max_batch_delay=50) as model:
        found = dict(pair for pairs in together(CLIENTS, client) for pair in pairs)

    wrong = {
        n: (expected[n], found[n])
        for n in numbers
        if verdict(kind, expected[n], found[n]) != "right"
    }
    assert not wrong, json.dumps(wrong, default=str)[:2000]
