"""The state that a handler's stages keep outside their payloads, as its source shows.

A stage may store something on `self` for another stage as long as batches stay whole. With
micro-batches the other stage may find what belongs to other rows. This room imports neither torch
nor TorchServe, so that the packing tools can read a handler anywhere.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.torchserve.reading.accesses import HANDLE, Accesses, Store
from micro_batch_handler.torchserve.reading.reader import accesses_of
from micro_batch_handler.torchserve.reading.source import Source, source_in_file, source_of_class

__all__ = ["Shared", "StageState", "state_in_file", "state_of_class"]


@dataclass(frozen=True)
class Shared:
    """Something that one stage stores and another reads, or a buffer that calls of a stage share.

    Attributes:
        name: as in the source: `self.is_dogs`, `LENGTHS` (of the module), `Handler.sizes`.
        stored_in: the stage, or `handle`.
        stored_line: in its file.
        read_in: the stage, or `handle`; of a buffer, the stage that writes to it.
        read_line: in its file.
        kind: `buffer` if a stage writes in place to what it may return, such as `self.buf[:n]`.
    """

    name: str
    stored_in: str
    stored_line: int
    read_in: str
    read_line: int
    kind: Literal["attribute", "buffer"] = "attribute"

    def __str__(self) -> str:
        if self.kind == "buffer":
            return (
                f"{self.name}, written in place in {self.stored_in} (line {self.stored_line}), "
                "which the next micro-batch would overwrite"
            )
        return (
            f"{self.name}, stored in {self.stored_in} (line {self.stored_line}) and read in "
            f"{self.read_in} (line {self.read_line})"
        )


@dataclass(frozen=True)
class StageState:
    """The state that a handler's stages keep outside their payloads.

    Attributes:
        shared: in the order of lines, one for each name.
        harmless: full names of all else that stages store: counters, caches, what is filled in once
            where it was missing. `self.x`; also `ClassName.x` if a class binds it; `self.helper.x`
            for an attribute of `self.helper`.
        scratch: for each stage, the attributes (`self.x`) that a call sets and reads again. Calls
            in several lanes would read each other's.
        escapes: whether `self` is handed to something that cannot be read.
    """

    shared: tuple[Shared, ...]
    harmless: frozenset[str]
    scratch: Mapping[Stage, frozenset[str]]
    escapes: bool
    pairs: tuple[Shared, ...] = ()
    """All pairs of stages of which one stores what the other reads, in the order of lines."""

    def across(self, stages: Collection[str]) -> Shared | None:
        """The first that two stages share of which one at least is among these."""
        between = (it for it in self.pairs if {it.stored_in, it.read_in}.intersection(stages))
        return next(between, None)


def state_of_class(kind: type) -> StageState:
    """The state of a loaded class. Never raises: what cannot be read is passed over."""
    return _state(source_of_class(kind))


def state_in_file(tree: ast.Module, class_name: str) -> StageState:
    """The state of a class in a file that is not imported, and of its bases in the same file.

    Never raises: what cannot be read is passed over.
    """
    return _state(source_in_file(tree, class_name))


def _state(source: Source) -> StageState:
    accesses = {stage: accesses_of(source, stage) for stage in (*STAGES, HANDLE)}
    kept = _Kept(source, accesses)
    shared = {key: found for key in kept.keys for found in [kept.shared(key)] if found is not None}
    return StageState(
        tuple(sorted(shared.values(), key=lambda it: (it.stored_line, it.name))),
        frozenset(name for key in kept.stores if key not in shared for name in kept.names(key)),
        {stage: kept.scratch(stage) for stage in STAGES},
        any(it.escapes for it in accesses.values()),
        tuple(sorted((it for key in kept.stores for it in kept.pairs(key)), key=_in_order)),
    )


def _in_order(shared: Shared) -> tuple[int, str, int]:
    return shared.stored_line, shared.name, shared.read_line


class _Kept:
    """All that the stages of a handler store.

    Attributes:
        stores: the stores of all stages, by key.
        keys: what is stored more often than once.
    """

    def __init__(self, source: Source, accesses: Mapping[str, Accesses]) -> None:
        self._source = source
        self._accesses = accesses
        self._dicts = {f".{name}" for kind in source.classes for name in kind.dicts} | {
            f"{module.name}:{name}"
            for kind in source.classes
            for _, module in kind.methods.values()
            for name in module.dicts()
        }
        self.stores: dict[str, list[Store]] = {}
        for store in (store for it in accesses.values() for store in it.stores):
            self.stores.setdefault(store.place.key, []).append(store)
        # A flag that is set where it was missing: what is stored beside it is stored once, too.
        self._once = {
            guard
            for stores in self.stores.values()
            if all(map(_is_guarded, stores))
            for it in stores
            for guard in it.guards
            if guard[0] == it.place.key
        }
        self.keys = [
            key for key, stores in self.stores.items() if not all(map(self._is_settled, stores))
        ]

    def _is_settled(self, store: Store) -> bool:
        return _is_guarded(store) or store.is_common or not self._once.isdisjoint(store.guards)

    def shared(self, key: str) -> Shared | None:
        """How stages share what a key stands for, or calls of one stage do; None if they do not."""
        first = next(self.pairs(key), None)
        if first is not None:
            return first
        for stage in STAGES[:2]:
            given = key in self._accesses[stage].gives
            for it in self._stores(stage, key):
                is_array = it.how == "slice" or (it.how == "index" and key not in self._dicts)
                if it.how == "result" or (is_array and given):
                    return Shared(it.place.shown, stage, it.line, stage, it.line, "buffer")
        return None

    def pairs(self, key: str) -> Iterator[Shared]:
        """Each stage that stores what a key stands for, with each other stage that reads it.

        Not one that fills in by itself what it finds missing: each process has its own then.
        """
        stages = list(self._accesses)
        for at, stage in enumerate(stages):
            stores = [it for it in self._stores(stage, key) if not it.is_common]
            for other in (*stages[at + 1 :], *stages[:at]):
                fills_in = any(map(_is_guarded, self._stores(other, key)))
                if stores and key in self._accesses[other].loads and not fills_in:
                    first = min(stores, key=lambda it: it.line)
                    line = self._accesses[other].loads[key]
                    yield Shared(first.place.shown, stage, first.line, other, line)

    def _stores(self, stage: str, key: str) -> list[Store]:
        return [it for it in self._accesses[stage].stores if it.place.key == key]

    def names(self, key: str) -> set[str]:
        """All full names of what a key stands for."""
        names = {it.spot for it in self.stores[key]}
        names |= {it.place.shown for it in self.stores[key] if it.how != "bound"}
        bound = [it for it in self._source.classes if key[:1] == "." and key[1:] in it.values]
        return names | {f"{name}{key}" for it in bound for name in ("self", it.name)}

    def scratch(self, stage: Stage) -> frozenset[str]:
        """The attributes that a stage sets in each call and reads."""
        accesses = self._accesses[stage]
        return frozenset(
            it.spot
            for it in accesses.stores
            if it.how == "bound"
            and it.spot == f"self{it.place.key}"
            and it.place.key in accesses.loads
            and not self._is_settled(it)
        )


def _is_guarded(store: Store) -> bool:
    return any(key == store.place.key for key, _ in store.guards)
