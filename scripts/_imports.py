"""Draw which rooms of the package import which, as docs/imports.svg, from the code itself.

A room is a folder of the package, or a file that stands in no folder. Arrows point from a room to
those that it imports. Imports that make a circle are drawn red and listed, and the status is 1.
Takes a second and needs nothing but Python. Example:

    scripts/draw-imports && git diff docs/imports.svg
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from _layers import Layers
from _picture import picture

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "micro_batch_handler"


@dataclass
class Room:
    """The files that stand in one folder."""

    files: int = 0
    lines: int = 0
    imports: dict[str, list[str]] = field(default_factory=dict)
    """For each room that this one imports: which file imports which."""

    def __str__(self) -> str:
        """How large it is."""
        return f"{self.files} {'file' if self.files == 1 else 'files'}, {self.lines:,} lines"


def main() -> int:
    """Write the picture, list the circles, return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/draw-imports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = ROOT / "docs" / "imports.svg"
    parser.add_argument("--output", type=Path, default=output, help="instead of docs/imports.svg")
    options = parser.parse_args()

    rooms = read_rooms()
    layers = Layers(
        {
            name: {to: len(lines) for to, lines in room.imports.items()}
            for name, room in rooms.items()
        }
    )
    drawn = picture(layers, {name: str(room) for name, room in rooms.items()})
    options.output.write_text(drawn, encoding="utf-8")
    for importer, imported in layers.circular:
        for line in rooms[importer].imports[imported]:
            print(f"{line}: this makes a circle", file=sys.stderr)
    return 1 if layers.circular else 0


def read_rooms() -> dict[str, Room]:
    """All rooms, by their path in the package."""
    # Files in a folder without __init__.py are data: what `init` writes.
    paths = [path for path in PACKAGE.rglob("*.py") if (path.parent / "__init__.py").exists()]
    modules = {module_name(path): path for path in sorted(paths)}
    rooms: dict[str, Room] = {}
    for path in modules.values():
        source = path.read_text(encoding="utf-8")
        room = rooms.setdefault(room_name(path), Room())
        room.files += 1
        room.lines += len(source.splitlines())
        for name in sorted({name for name in imported_names(source) if name in modules}):
            other = modules[name]
            if room_name(other) != room_name(path):
                line = f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
                room.imports.setdefault(room_name(other), []).append(line)
    # The package's own two files open the doors of the others and are no room.
    del rooms["."]
    for room in rooms.values():
        room.imports.pop(".", None)
    return rooms


def module_name(path: Path) -> str:
    """`micro_batch_handler.pipeline.stage` for its file; a folder's name for its __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_name(path: Path) -> str:
    """The folder of a file, as a path in the package, or the file's own name if it has none."""
    inside = path.relative_to(PACKAGE)
    alone = len(inside.parts) == 1 and not inside.stem.startswith("__")
    return inside.stem if alone else inside.parent.as_posix()


def imported_names(source: str) -> Iterator[str]:
    """The full names of what a file imports anywhere, those that are no module too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    sys.exit(main())
