"""The report: what the tests found and measured, written down as they go, told at the end.

Each entry is a line of JSON in one file, so that processes can share it and one that dies leaves
what it has found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ENTRIES", "SECONDS", "Entries", "failed", "markdown", "read", "write"]

ENTRIES = "MICRO_BATCH_GPU_ENTRIES"
"""The environment variable that names the file."""

SECONDS = "MICRO_BATCH_GPU_SECONDS"
"""The environment variable that tells a step how long it may take."""

Entry = Mapping[str, Any]


class Entries:
    """Writes entries to a file; processes and threads may append at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def test(self, name: str, shows: str | None, outcome: str, seconds: float) -> None:
        """How a test ended."""
        says = " ".join((shows or "").split())
        self._append(kind="test", name=name, shows=says, outcome=outcome, seconds=round(seconds, 2))

    def figures(self, title: str, row: Mapping[str, object]) -> None:
        """One row of the table with this title; its keys head the columns."""
        self._append(kind="figures", title=title, row=dict(row))

    def step(self, name: str, status: int | str, seconds: float) -> None:
        """How a part of scripts/test-gpu ended: its exit status, or why there is none."""
        self._append(kind="step", name=name, status=status, seconds=round(seconds, 1))

    def _append(self, **entry: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=str) + "\n")


def read(path: Path) -> list[Entry]:
    """All entries so far; a line that was cut short by the end of its process is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for line in lines if (entry := _decoded(line)) is not None]


def _decoded(line: str) -> Entry | None:
    try:
        entry: Entry = json.loads(line)
    except ValueError:
        return None
    return entry


def failed(entries: Sequence[Entry]) -> bool:
    """Whether something went wrong, or nothing was shown at all."""
    tests = [entry for entry in entries if entry["kind"] == "test"]
    steps = [entry for entry in entries if entry["kind"] == "step"]
    asked = any(step["name"] == "tests" for step in steps)
    shown = bool(steps) and (not asked or any(test["outcome"] == "passed" for test in tests))
    bad = any(test["outcome"] == "failed" for test in tests)
    return not shown or bad or any(step["status"] != 0 for step in steps)


def write(into: Path, about: Mapping[str, str], entries: Sequence[Entry]) -> list[Path]:
    """Write `into`.json and `into`.md; gives back both paths."""
    into.parent.mkdir(parents=True, exist_ok=True)
    told = {"about": dict(about), "failed": failed(entries), "entries": list(entries)}
    as_json, as_markdown = into.with_suffix(".json"), into.with_suffix(".md")
    as_json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    as_markdown.write_text(markdown(about, entries), encoding="utf-8")
    return [as_json, as_markdown]


def markdown(about: Mapping[str, str], entries: Sequence[Entry]) -> str:
    """The report for people: the verdict, what was measured, every test, the machine."""
    tests = [entry for entry in entries if entry["kind"] == "test"]
    steps = [entry for entry in entries if entry["kind"] == "step"]
    counts = {
        outcome: sum(test["outcome"] == outcome for test in tests)
        for outcome in ("passed", "failed", "skipped")
    }
    verdict = "**Something failed.**" if failed(entries) else "All is as it should be."
    told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    parts = [f"# On a GPU\n\n{verdict} Tests: {told}."]
    titles = dict.fromkeys(entry["title"] for entry in entries if entry["kind"] == "figures")
    for title in titles:
        rows = [e["row"] for e in entries if e["kind"] == "figures" and e["title"] == title]
        parts.append(f"## {title}\n\n{_table(rows)}")
    if tests:
        columns = ("outcome", "seconds", "name", "shows")
        parts.append(f"## Tests\n\n{_table([{c: test[c] for c in columns} for test in tests])}")
    if steps:
        columns = ("name", "status", "seconds")
        parts.append(f"## Steps\n\n{_table([{c: step[c] for c in columns} for step in steps])}")
    parts.append("\n".join(["## Machine\n", *(f"- {key}: {text}" for key, text in about.items())]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    heads = list(dict.fromkeys(head for row in rows for head in row))
    lines = [heads, ["---"] * len(heads)]
    lines += [[_cell(row.get(head, "")) for head in heads] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
