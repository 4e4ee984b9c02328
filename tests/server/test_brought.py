"""Handlers that users bring answer the same with micro-batching in front of them.

All of them by TorchServe's own code in this process, some on a real server.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.alone import answers_alone, answers_to
from harness.archives import BROUGHT, pack_plain
from harness.brought import CASES, CONFIG, HEADERS, archive_of
from harness.crowd import together
from harness.kinds import Told, alike, told
from harness.model import Packed
from harness.torchserve import TorchServe
from micro_batch_handler.__main__ import main

pytestmark = [
    pytest.mark.usefixtures("as_before"),
    pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning"),  # TorchServe's own
]

CLIENTS = 16
ON_SERVER = ("digits", "painter", "plain_function", "first_row", "image_classifier")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.handler)
def test_wrapped_handlers_answer_as_plain_ones(case, tmp_path):
    """Sixteen requests in one batch get the answers that the plain handler gives to each alone."""
    requests = {client: case.ask(client) for client in range(CLIENTS)}
    archive = archive_of(case, tmp_path, tmp_path)
    expected = answers_alone(unpacked(archive, tmp_path / "plain"), requests, HEADERS)
    assert main(["wrap", str(archive)]) == 0

    found = answers_to(unpacked(archive, tmp_path / "wrapped"), [requests], HEADERS)

    assert_alike(expected, found)


@pytest.mark.server
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.handler in ON_SERVER], ids=lambda case: case.handler
)
def test_wrapped_handlers_answer_many_clients(server, case, tmp_path):
    """On a real TorchServe sixteen clients at once get those answers, too."""
    requests = {client: case.ask(client) for client in range(CLIENTS)}
    archive = archive_of(case, server.model_store, tmp_path)
    expected = answers_alone(unpacked(archive, tmp_path / "plain"), requests, HEADERS)
    assert main(["wrap", str(archive)]) == 0

    with Packed(server, archive, batch_size=CLIENTS, max_batch_delay=100) as model:
        found = together(CLIENTS, lambda client: told(model.predict(**requests[client]), HEADERS))

    assert_alike(expected, dict(enumerate(found)))


def assert_alike(expected: Mapping[int, Told], found: Mapping[int, Told]) -> None:
    """Each request has its own answer, which no other has got."""
    assert {answer.status for answer in expected.values()} == {200}
    assert len({str(answer.body) for answer in expected.values()}) > 1
    for number, answer in expected.items():
        assert (answer.status, answer.headers) == (found[number].status, found[number].headers)
        assert alike(answer.body, found[number].body), (number, answer, found[number])


def unpacked(archive: Path, folder: Path) -> Path:
    """The folder of a model, as the frontend unpacks it."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


@pytest.mark.server
def test_a_handler_of_stock_micro_batching_serves(server):
    """With its import changed, a handler with `self.handle = MicroBatching(self)` answers all."""
    config = {
        "micro_batching": {
            "micro_batch_size": 4,
            "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 1},
        }
    }
    with server.model(
        BROUGHT / "stock.py", config, batch_size=CLIENTS, max_batch_delay=100
    ) as model:
        answers = together(CLIENTS, lambda client: model.predict(json={"number": client}))
        bad = model.predict(json={"number": "x"})

    assert [answer.json() for answer in answers] == [3 * n + 1 for n in range(CLIENTS)]
    assert bad.status_code == 400


@pytest.mark.server
def test_the_built_in_base_handler_is_wrapped_behind_an_envelope(java):
    """`base_handler`, which needs an envelope to get numbers, answers the same with both."""
    with TorchServe({"service_envelope": "body"}) as server:
        plain = pack_plain(
            "brought-base",
            "base_handler",
            CONFIG,
            server.model_store,
            {},
            model_file=str(BROUGHT / "tripled.py"),
        )
        wrapped = plain.with_name("brought-base-wrapped.mar")
        assert main(["wrap", str(plain), "--output", str(wrapped)]) == 0
        answers = []
        for archive in (plain, wrapped):
            with Packed(server, archive, batch_size=CLIENTS, max_batch_delay=100) as model:
                answers.append(together(CLIENTS, lambda n: model.predict(json=[n, 2]).json()))

    assert answers == [[[3 * client, 6] for client in range(CLIENTS)]] * 2
