"""Code on the pages: Python compiles, settings are valid, commands and their flags exist."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from micro_batch_handler.__main__ import main
from micro_batch_handler.config import MicroBatchingConfig
from tests.test_docs import PAGES, ROOT

FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")
SHELL = {"sh", "bash", "console", "shell"}
FLAG = re.compile(r"(?<!\S)--[a-z][\w-]*")


class Block(NamedTuple):
    """Some code on a page."""

    page: Path
    line: int
    language: str
    """As it stands after the fence; `sh` for indented blocks, which are commands."""
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """All code on a page."""
    text = page.read_text(encoding="utf-8")
    for found in FENCED.finditer(text):
        line = text[: found.start()].count("\n") + 1
        yield Block(page, line, found[2], textwrap.dedent(found[3]))
    prose = FENCED.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in INDENTED.finditer(prose):
        line = prose[: found.start()].count("\n") + 1
        yield Block(page, line, "sh", textwrap.dedent(found[0]))


BLOCKS = [block for page in PAGES for block in blocks(page)]


def these(*languages: str) -> Any:
    """The blocks in one of these languages, as parameters."""
    chosen = [block for block in BLOCKS if block.language in languages]
    names = [f"{block.page.relative_to(ROOT)}:{block.line}" for block in chosen]
    return pytest.mark.parametrize("block", chosen, ids=names)


@functools.cache
def help_of(*command: str) -> str:
    """What a command of the package prints for --help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0, f"no command {command}"
    return said.getvalue()


def commands(text: str) -> Iterator[list[str]]:
    """The words after `micro-batch-handler`, for each command in the text."""
    for line in text.replace("\\\n", " ").splitlines():
        _, found, arguments = line.partition("micro-batch-handler ")
        if found and not re.search(r"(pip|pipx|uv) .*install", line):
            yield shlex.split(arguments, comments=True)


def settings(value: Any) -> Iterator[dict[str, Any]]:
    """The mappings of model-config.yaml anywhere in what yaml has read."""
    if isinstance(value, dict):
        if "micro_batching" in value or "pt2" in value:
            yield value
        for each in value.values():
            yield from settings(each)


@these("python", "py")
def test_python_on_the_pages_compiles(block):
    """Each block is a whole program, or methods of one."""
    compile(block.text, f"{block.page}:{block.line}", "exec")


@these("yaml", "yml")
def test_settings_on_the_pages_are_valid(block):
    """YAML is read, and the package takes each `micro_batching:` in it."""
    for document in yaml.safe_load_all(block.text):
        for each in settings(document):
            MicroBatchingConfig.from_model_yaml(each)


@these(*SHELL)
def test_commands_on_the_pages_exist(block):
    """Each command of the package is one that it has, and so are its flags."""
    for words in commands(block.text):
        told = help_of(words[0])
        flags = {word.split("=")[0] for word in words[1:] if FLAG.match(word)}
        assert flags <= set(FLAG.findall(re.sub(r"[\[\](){},=|]", " ", told))), words
    for script in re.findall(r"^(scripts/[\w-]+|\.ci/run)", block.text, re.MULTILINE):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"-m ((?:benchmarks|tests)\S*)", block.text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_block_has_a_language_that_is_known():
    """No block escapes the tests above by its name; a drawing has none."""
    known = {"", "python", "py", "yaml", "yml", "json", "dockerfile", "ini", "properties", "text"}

    assert {block.language for block in BLOCKS} <= known | SHELL


def test_the_readmes_handler_is_the_quickstarts():
    """The README shows what the quickstart does, so that a test has run it."""
    (handler,) = (
        block for block in BLOCKS if block.page == ROOT / "README.md" and block.language == "python"
    )

    assert handler.text in {
        block.text for block in BLOCKS if block.page == ROOT / "docs" / "quickstart.md"
    }
