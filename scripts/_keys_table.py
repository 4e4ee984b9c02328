"""The table of the keys of `micro_batching:`, made from their declarations."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from micro_batch_handler.config import STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.config.rules import Section

BEGIN = "<!-- this table is made by scripts/keys-table -->\n\n"
END = "\n<!-- end of the table -->\n"


def main(path: Path) -> None:
    """Replace what stands between the markers in this file."""
    head = ["| key | values | default | means |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows(MicroBatchingConfig())])
    between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    text, found = between.subn(lambda _: f"{table}\n", path.read_text(encoding="utf-8"))
    if not found:
        sys.exit(f"keys-table: {path} has no place for the table; put in\n{BEGIN}{END}")
    path.write_text(text, encoding="utf-8")


def rows(settings: Any, path: str = "") -> Iterator[str]:
    """One line for each key of these settings, which are the defaults."""
    for field in fields(settings):
        if not field.metadata:
            continue  # no key
        name, rule = path + field.name, field.metadata["rule"]
        default = getattr(settings, field.name)
        if isinstance(rule, Section):
            yield from rows(default, f"{name}.")
        else:
            means = field.metadata["means"]
            yield f"| `{name}` | {rule.text} | {as_yaml(default)} | {means} |"


def as_yaml(value: Any) -> str:
    """A default as one writes it into yaml."""
    if isinstance(value, PerStage):
        (value,) = {value[stage] for stage in STAGES}  # the same for every stage
    return f"`{value}`" if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
