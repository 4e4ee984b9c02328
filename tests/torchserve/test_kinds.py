"""Handlers as users write them answer the same with micro-batching in front of them.

In process and without Java: TorchServe's own code loads each, reads what it is asked and writes
what it answers. `python -m benchmarks.answers` does the same on a real server.
"""

from __future__ import annotations

import random
import re

import pytest

from harness.alone import Frontend, answers_alone, folder_of, let_go
from harness.kinds import HANDLERS_OF_KINDS, KINDS, verdict
from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.worker import load
from micro_batch_handler.tools.packing.front import front_of
from micro_batch_handler.tools.packing.handler_class import read_handler
from micro_batch_handler.tools.workbench.model_folder import importable, working_in

REQUESTS = 24
BATCH = 8
ROUNDS = 3
BAD_EVERY = 5

pytestmark = [
    pytest.mark.usefixtures("as_before"),
    # What a handler gives to an event loop that runs already.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


def batches(numbers):
    """Several rounds of all requests in batches, each round in another order."""
    chance = random.Random(1)
    for _ in range(ROUNDS):
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]
        numbers = chance.sample(numbers, len(numbers))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_answers_in_batches_what_it_answers_alone(kind, tmp_path):
    """A good request gets the plain handler's answer, and a bad one beside it gets none."""
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in range(REQUESTS)}
    expected = answers_alone(
        folder_of(kind, tmp_path / "plain", kind.file.name), asked, kind.headers
    )
    bad = [n for n, told in expected.items() if told.status not in kind.statuses]
    assert bad == ([n for n in asked if n % BAD_EVERY == BAD_EVERY - 1] if kind.bad else [])
    # Else requests could be given each other's answers unnoticed.
    assert len({str(told.body) for told in expected.values()}) > REQUESTS // 2
    try:
        front = front_of(read_handler(str(kind.file)))
    except ArchiveError as error:
        if not kind.refused:
            raise
        assert re.search(kind.refused, str(error))  # noqa: PT017
        return
    folder = folder_of(kind, tmp_path / "fronted", front.name, BATCH)
    (folder / front.name).write_text(front.text, encoding="utf-8")

    differences = []
    with importable(folder), working_in(folder):
        service = load(folder)
        handler = service._entry_point.__self__
        frontend = Frontend(service, kind.headers)
        try:
            for batch in batches(list(asked)):
                for number, found in frontend.ask({n: asked[n] for n in batch}).items():
                    said = verdict(kind, expected[number], found)
                    if said not in ("right", "broken off beside a bad one"):
                        differences.append((said, number, expected[number], found))
        finally:
            MicroBatchMixin.close(handler)
            let_go(handler)

    assert not differences, f"{len(differences)} of {ROUNDS * REQUESTS}: {differences[:3]}"


def test_every_file_is_a_kind():
    """Each handler of the folder is asked, once."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.file for kind in KINDS} == set(HANDLERS_OF_KINDS.glob("*.py"))
