"""docs/migration.md: its handlers load and its commands do what it says, as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.archives import entries

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")

FILE = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^(?:    .*\n)+", re.MULTILINE)


def commands() -> list[str]:
    """The commands, in order; a line that ends in a backslash goes on."""
    text = FILE.sub("", TEXT)
    lines = "".join(COMMANDS.findall(text)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files of the page, in which its commands have been run."""
    folder = tmp_path_factory.mktemp("migration")
    for name, text in FILE.findall(TEXT):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "temp").mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TMPDIR": str(folder / "temp")}
    for command in commands():
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "--check" in command:
            assert "status 200" in done.stdout
            assert re.search(r"3,\s+6,\s+9", done.stdout)
    return folder


def test_the_page_has_handlers_and_commands():
    """What is to be run is found on the page."""
    assert [name for name, _ in FILE.findall(TEXT)] == [
        "handler.py",
        "model-config.yaml",
        "stock.py",
        "own.py",
    ]
    assert len(commands()) == 7


def test_the_commands_give_what_the_page_says(place):
    """Each command ends well, the archives answer, and unwrapping gives the old files back."""
    files = {name: text for name, _, _, text in entries(place / "old.mar")}

    assert files == {name: text for name, _, _, text in entries(place / "again.mar")}
    assert {path.stem for path in place.glob("*.mar")} == {
        "numbers",
        "old",
        "new",
        "again",
        "stock",
        "own",
    }
