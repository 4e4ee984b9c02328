"""On a real TorchServe: handlers that must not be cut answer as they do alone, one of each kind."""

from __future__ import annotations

import json
import os
import re

import pytest

from harness.brought import Packed, pack
from harness.crowd import together
from harness.kinds import KINDS, Told, body_of, verdict
from micro_batch_handler.__main__ import main
from tests.torchserve.test_kinds import as_before, folder_of, plain_answers  # noqa: F401  (a fixture)

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


def told(kind, response):
    """What a client has been told, as the in-process comparison has it."""
    ended = re.search(rb'\{\s*"code": (\d+),[^{}]*\}\s*$', response.content)
    status = int(ended[1]) if kind.streams and ended else response.status_code
    headers = {name: response.headers.get(name) for name in kind.headers}
    return Told(status, body_of(response.content), headers)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ONE_OF_EACH], ids=lambda kind: kind.name
)
def test_clients_at_once_get_what_each_gets_alone(server, kind, tmp_path):
    """Sixteen clients, several rounds, a fifth of the requests bad: every answer is its own."""
    numbers = range(CLIENTS * ROUNDS)
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in numbers}
    expected = plain_answers(kind, asked, folder_of(kind, tmp_path / "plain", kind.file.name))
    name = f"kind-{kind.name}-{os.getpid()}"
    archive = pack(
        server.model_store, name, str(kind.file), kind.extra_files, None, None, kind.section
    )
    assert main(["wrap", str(archive)]) == 0

    def client(number):
        return [
            (n, told(kind, model.predict(**asked[n]))) for n in numbers if n % CLIENTS == number
        ]

    with Packed(server, archive, batch_size=8, max_batch_delay=50) as model:
        found = dict(pair for pairs in together(CLIENTS, client) for pair in pairs)

    wrong = {
        n: (expected[n], found[n])
        for n in numbers
        if verdict(kind, expected[n], found[n]) != "right"
    }
    assert not wrong, json.dumps(wrong, default=str)[:2000]
