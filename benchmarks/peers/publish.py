"""A result as docs/benchmarks.md shows it: pictures, tables, conditions, and the samples behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.page import plot
from benchmarks.peers.report import conditions, table

__all__ = ["publish"]

BEGIN = "<!-- what follows is made by scripts/benchmark-peers --publish -->\n\n"
END = "\n<!-- end of what it makes -->\n"


def publish(result: Mapping[str, Any], page: Path) -> list[Path]:
    """Put a result between the markers of a page; gives back the files that it has written.

    Pictures and samples are in a folder beside the page, which has its name without `.md`.

    Raises:
        ValueError: the page has no such markers, or the result has no servers.
    """
    text = page.read_text(encoding="utf-8")
    between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    workloads = [workload for workload in result["workloads"] if workload["servers"]]
    if not between.search(text):
        raise ValueError(f"{page} has no place for figures; put in\n{BEGIN}{END}")
    if not workloads:
        raise ValueError("the result has no servers: all were left out")
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    samples = folder / "peers.json"
    samples.write_text(json.dumps(result) + "\n", encoding="utf-8")
    pictures = {workload["name"]: folder / f"{workload['name']}.svg" for workload in workloads}
    for workload in workloads:
        drawn = plot(workload, result["lengths"]["clients"])
        # Alone in a file, which an element of a page is not, it needs its name space.
        named = "" if "xmlns=" in drawn else ' xmlns="http://www.w3.org/2000/svg"'
        pictures[workload["name"]].write_text(
            drawn.replace("<svg", f"<svg{named}", 1), encoding="utf-8"
        )
    made = "\n\n".join(_parts(result, workloads, folder.name)) + "\n"
    page.write_text(between.sub(lambda _: made, text), encoding="utf-8")
    return [page, samples, *pictures.values()]


def _parts(
    result: Mapping[str, Any], workloads: list[Mapping[str, Any]], folder: str
) -> Iterator[str]:
    clients = result["lengths"]["clients"]
    about = result["about"]
    yield f"{about['date']}, {about['machine']}."
    for workload in workloads:
        name = workload["name"]
        yield f"### {name}"
        yield f"{workload['title']}."
        yield (
            f"![Requests per second against the median latency of each server, {name}, a point for "
            f"each number of clients: {', '.join(map(str, clients))}.]({folder}/{name}.svg)"
        )
        yield table(workload["servers"], clients)
    yield f"{conditions(result)} [All samples]({folder}/peers.json)."
