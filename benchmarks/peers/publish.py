"""Results as docs/benchmarks.md has them: pictures, tables, conditions, and the samples behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.page import plot
from benchmarks.peers.report import conditions, table

__all__ = ["publish"]

BEGIN = "<!-- what follows is made by scripts/benchmark-peers --publish -->\n\n"
END = "\n<!-- end of what it makes -->\n"


def publish(results: Sequence[Mapping[str, Any]], page: Path) -> list[Path]:
    """Put results between the markers of a page; gives back the files that it has written.

    Pictures and samples are in a folder beside the page, which has its name without `.md`.

    Args:
        results: of runs, each with other workloads.
        page: gets them.

    Raises:
        ValueError: the page has no such markers, there are no servers, or a workload comes twice.
    """
    text = page.read_text(encoding="utf-8")
    between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"{page} has no place for figures; put in\n{BEGIN}{END}")
    if not any(map(_measured, results)):
        raise ValueError("there are no servers: all were left out")
    names = [workload["name"] for result in results for workload in _measured(result)]
    if len(set(names)) < len(names):
        raise ValueError(f"a workload comes twice: {', '.join(names)}")
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    samples = folder / "peers.json"
    samples.write_text(json.dumps(results) + "\n", encoding="utf-8")
    pictures = []
    for result in results:
        for workload in _measured(result):
            drawn = plot(workload, result["lengths"]["clients"])
            # Alone in a file, which an element of a page is not, it needs its name space.
            named = "" if "xmlns=" in drawn else ' xmlns="http://www.w3.org/2000/svg"'
            pictures.append(folder / f"{workload['name']}.svg")
            pictures[-1].write_text(drawn.replace("<svg", f"<svg{named}", 1), encoding="utf-8")
    made = "\n\n".join(part for result in results for part in _parts(result, folder.name))
    told = f"{made}\n\n[All samples]({folder.name}/{samples.name}).\n"
    page.write_text(between.sub(lambda _: told, text), encoding="utf-8")
    return [page, samples, *pictures]


def _measured(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The workloads that were measured on any server."""
    return [workload for workload in result["workloads"] if workload["servers"]]


def _parts(result: Mapping[str, Any], folder: str) -> Iterator[str]:
    clients, about = result["lengths"]["clients"], result["about"]
    for workload in _measured(result):
        name = workload["name"]
        yield f"### {name}"
        yield f"{workload['title']}. Measured on {about['date']}, {about['machine']}."
        yield (
            f"![Requests per second against the median latency of each server, {name}, a point for "
            f"each number of clients: {', '.join(map(str, clients))}.]({folder}/{name}.svg)"
        )
        yield table(workload["servers"], clients)
    yield conditions(result)
