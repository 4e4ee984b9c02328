"""The init command: a folder with a handler that works, to be changed into one's own.

    skeletons/common     what every folder gets; its README.md is the only file that is adapted
    skeletons/KIND       handler, model, sample and test for one kind of requests

Nothing is written if anything would be replaced.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging_utils import ModelExportUtils

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.output import refuse_unwritable

__all__ = ["KINDS", "main", "skeleton"]

PROG = "micro-batch-handler init"

_DESCRIPTION = """\
Write a folder with a handler that works at once: its three stages, a small model, settings with
comments, a sample, a test, the server's files, and a README.md with the commands to pack, start,
ask, watch and stop it. Change it step by step into your own. The model gets the folder's name.
Nothing that is there is replaced.
"""

_EXAMPLE = """\
example:
  micro-batch-handler init cats --kind image
"""

_README = "README.md"


class _Kind(NamedTuple):
    """What the README of a kind of requests says in place of JSON's."""

    sample: str
    content_type: str


KINDS: Mapping[str, _Kind] = {
    "json": _Kind("sample.json", "application/json"),
    "image": _Kind("sample.png", "image/png"),
    "text": _Kind("sample.txt", "text/plain"),
}


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = _parser().parse_args(argv)
    folder: Path = flags.folder
    name = folder.resolve().name
    _refuse_bad_name(folder, name)
    content = skeleton(flags.kind, name)
    _refuse_existing(folder, content)
    refuse_unwritable(str(folder), folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, written in content.items():
            with (folder / file).open("xb") as out:  # x: another program may have been faster
                out.write(written)
    except OSError as error:
        raise ArchiveError(f"{folder}: {error}") from error
    print(f"Wrote {folder}: {', '.join(content)}\n\nNext, as its {_README} says:\n")
    print(f"    cd {shlex.quote(str(folder))}")
    print("\n".join(_commands(content[_README].decode())))
    return 0


def skeleton(kind: str, name: str) -> dict[str, bytes]:
    """The files of a new folder, by their names.

    Args:
        kind: of the requests, one of `KINDS`.
        name: the model's.
    """
    skeletons = files("micro_batch_handler.tools") / "skeletons"
    content = {
        path.name: path.read_bytes()
        for folder in (kind, "common")
        for path in (skeletons / folder).iterdir()
        if path.is_file()  # pip compiles the Python files, into a folder beside them
    }
    readme = content[_README].decode()
    # It is the text for JSON, and nothing but these words differs.
    for ours, theirs in zip((*KINDS["json"], "my_model"), (*KINDS[kind], name), strict=True):
        readme = readme.replace(ours, theirs)
    return dict(sorted({**content, _README: readme.encode()}.items()))


def _commands(readme: str) -> list[str]:
    """The commands in a README: its indented lines."""
    return [line for line in readme.splitlines() if line.startswith("    ")]


def _refuse_bad_name(folder: Path, name: str) -> None:
    try:
        ModelExportUtils.check_model_name_regex_or_exit(name)
    except ModelArchiverError:
        raise ArchiveError(
            f"{folder}: the model gets the folder's name, and {name!r} cannot be one, since it is "
            "a part of the address /predictions/NAME; use letters, digits and _ - . and begin "
            "with a letter or digit"
        ) from None


def _refuse_existing(folder: Path, content: Mapping[str, bytes]) -> None:
    there = [str(folder / file) for file in content if os.path.lexists(folder / file)]
    if there:
        raise ArchiveError(
            f"{', '.join(there)}: already there, and nothing is replaced; move "
            f"{'it' if len(there) == 1 else 'them'} away, or give another folder"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, help="where to write; it is made if it is missing, with its parents"
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="json",
        help="what a request is (default json). The model that stands in for yours:\n"
        "  json   four measurements of an iris; its species\n"
        "  image  a JPEG, PNG or WebP; its colour\n"
        "  text   a text in UTF-8; its language",
    )
    return parser
