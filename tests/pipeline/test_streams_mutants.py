"""Each wait, each hold and each step of the hand-over is needed: without it, some seed fails."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import pytest

from micro_batch_handler.pipeline.device import pinned, streams, transfers
from micro_batch_handler.pipeline.device.streams import Streams
from tests.pipeline.device_traffic import (
    Traffic,
    problems,
    problems_after_a_failure,
    problems_of_release,
    problems_when_lost,
    problems_without_event,
)

pytestmark = pytest.mark.usefixtures("quick_turns")

PARTS = {
    streams: {"Streams", "_Stream", "_DeviceWork"},
    transfers: {"upload", "download", "_transfer"},
    pinned: {"PinnedBuffers"},
}
"""Where what is mutated stands: not what a device without streams runs."""

SEEDS = 240


class Mutant(NamedTuple):
    """A module with one place changed."""

    module: ModuleType
    name: str
    tree: ast.Module


REPLACED = [
    # The order of event and hand-over.
    (streams, "self._has_ended(done, host_s)", "None"),
    (streams, "_has_come(self._kept[0][0])", "True"),
    (streams, "bool(event.query())", "True"),
    (streams, "for part in self._parts:", "for part in self._parts[:1]:"),
    (streams, "self._record() if self.done is None else self.done", "self._began"),
    (streams, "transfer.own()", "transfer.payload"),
    (streams, "if transfer.buffer is None:", "if True:"),
    (streams, "self._stream.keep(done,", "kind is None and self._stream.keep(done,"),
    (streams, "self._all.append(stream)", "None"),
    (transfers, "device.upload(leaf, wait=True)", "device.upload(leaf, wait=False)"),
    (pinned, "idle.pop()", "idle[-1]"),
]
"""Parts of statements, as `ast.unparse` writes them, and what stands in their place."""


def removals(module: ModuleType) -> list[Mutant]:
    """The module without one call that stands as a statement, for each of them."""
    source = inspect.getsource(module)
    found = []
    for place, line in enumerate(_calls(ast.parse(source), PARTS[module])):
        tree = ast.parse(source)
        statement = _calls(tree, PARTS[module])[place]
        name = f"{module.__name__.rpartition('.')[2]}.py:{line.lineno} {ast.unparse(line)}"
        statement.value = ast.Constant(value=None)
        found.append(Mutant(module, name, tree))
    return found


def _calls(tree: ast.Module, parts: set[str]) -> list[ast.Expr]:
    return [
        node
        for part in tree.body
        if isinstance(part, (ast.ClassDef, ast.FunctionDef)) and part.name in parts
        for node in ast.walk(part)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and not ast.unparse(node).startswith("logger.")
    ]


def records_too_early() -> Mutant:
    """The event of what preprocess returns, recorded before the copies are asked for."""
    tree = ast.parse(inspect.getsource(streams))
    [method] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name == "hand_over"
        and "upload" in ast.unparse(node)
    ]
    [place] = [
        place
        for place, node in enumerate(method.body)
        if ast.unparse(node) == "self.done = self._record()"
    ]
    method.body.insert(1, method.body.pop(place))
    return Mutant(streams, "streams.py: done is recorded before the copies", tree)


def replacements() -> list[Mutant]:
    """The modules with part of a statement replaced."""
    found = []
    for module, before, after in REPLACED:
        source = ast.unparse(ast.parse(inspect.getsource(module)))
        assert source.count(before) == 1, f"{before} stands {source.count(before)} times"
        tree = ast.parse(source.replace(before, after))
        name = f"{module.__name__.rpartition('.')[2]}.py: {before} -> {after}"
        found.append(Mutant(module, name, tree))
    return found


REMOVED = [mutant for module in PARTS for mutant in removals(module)]
MUTANTS = [*REMOVED, records_too_early(), *replacements()]


SAFETY = (
    " device.synchronize()",
    "copied.synchronize()",
    "self.done.synchronize()",
    "wait_event(",
    "event.record(",
    "keep(done,",
    "_kept.append(",
    "device.fill(",
    "device.download(",
    "done is recorded",
    "_has_come(",
    "event.query(",
    "self._parts[:1]",
    "self._began",
    "transfer.own()",
    "wait=False",
)
"""What is needed for right answers, by a part of the mutant's name."""


def is_safety(mutant: Mutant) -> bool:
    """Whether answers are wrong without it."""
    return any(part in mutant.name for part in SAFETY)


def name_of(mutant: Mutant) -> str:
    """For the test's id."""
    return mutant.name


def streams_class(mutant: Mutant) -> type[Streams]:
    """`Streams` as it would be with this mutant, which nobody else sees."""
    spaces = {module: _run(module, ast.parse(inspect.getsource(module))) for module in PARTS}
    spaces[mutant.module] = _run(mutant.module, mutant.tree)
    spaces[streams].update(
        upload=spaces[transfers]["upload"],
        download=spaces[transfers]["download"],
        PinnedBuffers=spaces[pinned]["PinnedBuffers"],
    )
    return spaces[streams]["Streams"]


def _run(module: ModuleType, tree: ast.Module) -> dict:
    space = {"__name__": module.__name__, "__file__": module.__file__}
    code = compile(ast.fix_missing_locations(tree), module.__file__, "exec")
    exec(code, space)
    return space


def traffics(seeds: int) -> Iterator[Traffic]:
    """First one in which failed calls write to what they took in, then any."""
    for seed in range(12):
        yield Traffic(
            seed,
            sizes=(2, 2, 1),
            batches=3,
            rows=9,
            inference="in place",
            fault="always",
            fault_row=3,
        )
    for seed in range(seeds):
        yield Traffic.drawn(seed)


def wrong_answers(mutant: type[Streams]) -> list[str]:
    """The first wrong answers, if there are any."""
    if found := problems_after_a_failure(mutant):
        return found
    for traffic in traffics(SEEDS):
        found = problems(replace(traffic, timed=False), mutant)
        if wrong := [problem for problem in found if " instead of [" in problem]:
            return wrong
    return []


def anything_wrong(mutant: type[Streams]) -> list[str]:
    """What goes wrong first, be it only that something is never given back."""
    for traffic in traffics(SEEDS):
        if found := problems(traffic, mutant):
            return found
    return (
        problems_of_release(mutant) or problems_without_event(mutant) or problems_when_lost(mutant)
    )


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if is_safety(m)], ids=name_of)
def test_without_it_an_answer_is_wrong(mutant):
    """Each wait, hold, event and host synchronisation stands between clients and wrong answers."""
    assert wrong_answers(streams_class(mutant))


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if not is_safety(m)], ids=name_of)
def test_without_it_something_is_lost(mutant):
    """Every other call in the hand-over is needed too: for memory, buffers, streams or times."""
    assert anything_wrong(streams_class(mutant))


def test_the_mutants_are_those_that_matter():
    """Waits, synchronisations and holds are all among the statements that are left out."""
    names = " ".join(mutant.name for mutant in REMOVED)

    assert len(REMOVED) >= 20
    assert sum(is_safety(mutant) for mutant in MUTANTS) >= 14
    for call in ("wait_event", "synchronize", "keep", "record", "_kept.append", "_buffers.append"):
        assert f"{call}(" in names, call


def test_unchanged_nothing_fails():
    """What the mutants are made of passes what they fail."""
    unchanged = streams_class(Mutant(streams, "", ast.parse(inspect.getsource(streams))))

    assert not wrong_answers(unchanged)
    assert not anything_wrong(unchanged)
