"""A layered drawing of a graph: nodes in rows from top to bottom, so that all arrows point down.

The steps are those of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical
system structures" (1981), made simple for graphs of some twenty nodes.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise
from statistics import mean

Edge = tuple[str, str]

LINE = 0.25
"""The room that an arrow needs between two boxes; a box needs 1."""

STARTS = 16
"""How many random orders the search for the best one starts from."""

SWEEPS = 50
"""How often the rows are passed, down and up, while their nodes move to the side."""

STRAIGHT = 20
"""How much more a long arrow wants to go straight between boxes than a box wants to its middle."""


class Layers:
    """Rows and places for the nodes of a graph, and the edges to draw.

    `graph` has the weight of each edge, by its first and its second node.

    Attributes:
        circular: The lightest edge of each circle. Only these point up.
        direct: Edges that no path of other edges implies. The others are left out.
        row: The row of each node, from 0 at the top.
        x: The middle of each node, in widths of a box, from 0 at the left.
        bends: For each direct edge, its places in the rows between its nodes.
    """

    def __init__(self, graph: Mapping[str, Mapping[str, int]]) -> None:
        edges = {
            (node, to): graph[node][to] for node in sorted(graph) for to in sorted(graph[node])
        }
        self.circular: list[Edge] = []
        while circle := _circle(graph, edges):
            self.circular.append(min(circle, key=lambda edge: (edges[edge], edge)))
            del edges[self.circular[-1]]
        order = _bottom_up(graph, edges)
        self.direct = _direct(order, edges)
        self.row: dict[str, int] = {}
        for node in reversed(order):
            above = [self.row[start] for start, to in edges if to == node]
            self.row[node] = 1 + max(above, default=-1)
        self.x, self.bends = self._places()

    def _places(self) -> tuple[dict[str, float], dict[Edge, list[float]]]:
        rows: list[list[str]] = [[] for _ in range(1 + max(self.row.values()))]
        for node in sorted(self.row):
            rows[self.row[node]].append(node)
        paths: dict[Edge, list[str]] = {}
        for start, to in self.direct:
            between = range(self.row[start] + 1, self.row[to])
            paths[start, to] = [start, *(f"{start} {to} {row}" for row in between), to]
            for row, place in zip(between, paths[start, to][1:-1], strict=True):
                rows[row].append(place)
        lines = [pair for path in paths.values() for pair in pairwise(path)]
        _uncross(rows, lines)
        x = _spread(rows, lines, self.row)
        left = min(x[node] for node in self.row)
        return (
            {node: x[node] - left for node in self.row},
            {edge: [x[place] - left for place in path[1:-1]] for edge, path in paths.items()},
        )


def _circle(nodes: Iterable[str], edges: Collection[Edge]) -> list[Edge]:
    """The edges of one of the circles, or none."""
    try:
        _bottom_up(nodes, edges)
    except CycleError as error:
        return [(start, to) for to, start in pairwise(error.args[1])]
    return []


def _bottom_up(nodes: Iterable[str], edges: Iterable[Edge]) -> list[str]:
    """The nodes, each after those that it points to."""
    sorter = TopologicalSorter(dict.fromkeys(sorted(nodes), ()))
    for start, to in edges:
        sorter.add(start, to)
    return list(sorter.static_order())


def _direct(bottom_up: list[str], edges: Collection[Edge]) -> list[Edge]:
    """The edges without those that lead where a path of others leads."""
    below: dict[str, set[str]] = {}
    for node in bottom_up:
        nearest = {to for start, to in edges if start == node}
        below[node] = nearest.union(*(below[to] for to in nearest))
    return [
        (node, to)
        for node, to in edges
        if not any(to in below[via] for start, via in edges if start == node)
    ]


def _uncross(rows: list[list[str]], lines: list[Edge]) -> None:
    """Put each row into the order in which the lines cross least, and are shortest."""
    found = []
    for seed in range(STARTS):
        chance = random.Random(seed)  # noqa: S311 - any order will do, if it is the same each time
        trial = [chance.sample(row, len(row)) for row in rows]
        before = None
        while trial != before:
            before = trial
            trials = [trial, *_swapped(trial)]
            trial = min(trials, key=lambda order: _tangle(order, lines))
        found.append(trial)
    best = min(found, key=lambda order: _tangle(order, lines))
    rows[:] = best


def _swapped(rows: list[list[str]]) -> Iterator[list[list[str]]]:
    """The rows with two nodes of one of them swapped, in every way."""
    for at, row in enumerate(rows):
        for one, other in combinations(range(len(row)), 2):
            swapped = list(row)
            swapped[one], swapped[other] = row[other], row[one]
            yield [*rows[:at], swapped, *rows[at + 1 :]]


def _tangle(rows: list[list[str]], lines: list[Edge]) -> tuple[int, float]:
    """How many lines cross, and how far they lead to the side."""
    x = {node: at - len(row) / 2 for row in rows for at, node in enumerate(row)}
    row_of = {node: at for at, row in enumerate(rows) for node in row}
    spans = [(row_of[start], x[start], x[to]) for start, to in lines]
    crossings = sum(
        row == other and (left - start) * (right - to) < 0
        for (row, left, right), (other, start, to) in combinations(spans, 2)
    )
    return crossings, sum((start - to) ** 2 for _, start, to in spans)


def _spread(rows: list[list[str]], lines: list[Edge], boxes: Collection[str]) -> dict[str, float]:
    """Move each node to the mean of its neighbours, again and again, as far as there is room."""
    x = {node: at - len(row) / 2 for row in rows for at, node in enumerate(row)}
    near: dict[str, list[str]] = {node: [] for node in x}
    for start, to in lines:
        weight = 1 if start in boxes or to in boxes else STRAIGHT
        near[start] += [to] * weight
        near[to] += [start] * weight
    for _ in range(SWEEPS):
        for row in [*rows, *reversed(rows)]:
            wanted = [mean(x[other] for other in near[node] or [node]) for node in row]
            widths = [1 if node in boxes else LINE for node in row]
            x |= zip(row, _apart(wanted, widths), strict=True)
    return x


def _apart(wanted: list[float], widths: list[float]) -> list[float]:
    """The places nearest to the wanted ones at which neighbours do not overlap, in this order."""
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2)
    groups: list[list[float]] = []
    for place, offset in zip(wanted, offsets, strict=True):
        groups.append([place - offset])
        # Nodes that would overlap stay side by side, where they are nearest to what they want.
        while len(groups) > 1 and mean(groups[-2]) > mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    shifts = [mean(group) for group in groups for _ in group]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]
