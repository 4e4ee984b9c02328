"""Commands and programs on the pages: a test runs each as it is printed, or the page says why not.

A comment `<!-- not run: REASON -->` on the lines before a block excuses it, and
`<!-- commands of this page are not run: REASON -->` a whole page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from harness.archives import pack_plain
from harness.printed import printed
from harness.settings import ROOT
from micro_batch_handler.__main__ import main
from micro_batch_handler.tools.packing.inputs import PACKAGE
from tests.test_blocks import BLOCKS, SHELL

EXCUSED = re.compile(r"<!-- not run: \S[^>]*-->\s*\Z")
PAGE_EXCUSED = re.compile(r"<!-- commands of this page are not run: \S[^>]*-->")

HERE = {
    "docs/bring.md": (" archive ", " wrap "),
    "docs/deploy.md": ("release-2",),
    "docs/quickstart.md": ("torch-model-archiver",),
    "docs/trace.md": (" trace ",),
}
"""What the blocks have that run below, by page."""

STUBS = "pip install grpcio-tools"
"""A block of deploy.md begins so, and tests/test_deploy.py runs it."""

SECONDS = 120


def where(block):
    """A block's page, from the top of the repository."""
    return block.page.relative_to(ROOT).as_posix()


def is_excused(block):
    """Whether the page says why the block is not run."""
    text = block.page.read_text(encoding="utf-8")
    before = "".join(text.splitlines(keepends=True)[: block.line - 1])
    return bool(PAGE_EXCUSED.search(text) or EXCUSED.search(before))


def lines_of(text):
    """Commands without what is only said beside them."""
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines())
    return {line for line in lines if line and not line.startswith("#")}


def is_run(block):
    """Whether a test runs it: below, or that of its page."""
    page = where(block)
    if block.language in SHELL and any(part in block.text for part in HERE.get(page, ())):
        return True
    if page == "docs/quickstart.md":  # tests/test_quickstart.py: files, and commands to the stop
        stop = block.page.read_text(encoding="utf-8").partition("    torchserve --stop\n")[0]
        return block.language not in SHELL or block.line <= stop.count("\n")
    return page == "docs/migration.md" or block.text.startswith(STUBS)


CHECKED = [block for block in BLOCKS if block.language in {*SHELL, "python", "py"}]
QUICKSTART = set().union(
    *(
        lines_of(block.text)
        for block in CHECKED
        if where(block) == "docs/quickstart.md" and not is_excused(block)
    )
)


@pytest.mark.parametrize("block", CHECKED, ids=lambda each: f"{where(each)}:{each.line}")
def test_each_block_is_run_or_says_why_not(block):
    """By the test of its page, below, as a part of the quickstart, or with a reason."""
    told = "run it, or write <!-- not run: REASON --> before it"
    lines = lines_of(block.text)
    assert is_excused(block) or is_run(block) or (lines and lines <= QUICKSTART), told


def run(page, folder, only):
    """Run the blocks of a page that have this text, installations left out; what they print."""
    assert only in HERE[page]
    scripts = [
        re.sub(r"^pip install .*$", "", block.text, flags=re.MULTILINE)
        for block in BLOCKS
        if where(block) == page and block.language in SHELL and only in block.text
    ]
    assert all(script.strip() for script in scripts)
    assert scripts
    return "".join(bash(script, folder) for script in scripts)


def bash(script, folder):
    """What a script prints, which has to end well."""
    (folder / "temp").mkdir(exist_ok=True)  # torch-model-archiver's, which has the model's name
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "TMPDIR": str(folder / "temp")},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def plain(name, into):
    """An archive of a handler of TorchServe's."""
    return pack_plain(name, "image_classifier", {}, into, {}, serialized_file=__file__)


def test_commands_for_a_handler_that_is_there(tmp_path):
    """docs/bring.md: a built-in handler is packed as it is, wrapped, and unwrapped again."""
    torch.save(torch.nn.Linear(4, 3), tmp_path / "model.pt")
    (tmp_path / "model_store").mkdir()

    run("docs/bring.md", tmp_path, " archive ")
    packed = tmp_path / "model_store" / "my_model.mar"
    with zipfile.ZipFile(packed) as archive:
        assert f"{PACKAGE}/__init__.py" in archive.namelist()

    packed.unlink()
    before = plain("my_model", packed.parent).read_bytes()
    run("docs/bring.md", tmp_path, " wrap ")
    assert packed.read_bytes() == before


def test_commands_of_torch_model_archiver(tmp_path):
    """docs/quickstart.md: the package is packed by a folder around it."""
    for name in ("handler.py", "model-config.yaml", "model.pt"):
        (tmp_path / name).touch()
    (tmp_path / "model_store").mkdir()
    (tmp_path / PACKAGE).symlink_to(ROOT / PACKAGE)

    run("docs/quickstart.md", tmp_path, "torch-model-archiver")

    with zipfile.ZipFile(tmp_path / "model_store" / "my_model.mar") as archive:
        assert f"{PACKAGE}/__init__.py" in archive.namelist()


def test_commands_for_an_upgrade(tmp_path):
    """docs/deploy.md: `wrap` takes each archive of a folder."""
    (tmp_path / "release-1").mkdir()
    for name in ("one", "two"):
        plain(name, tmp_path / "release-1")

    run("docs/deploy.md", tmp_path, "release-2")

    assert {path.name for path in (tmp_path / "release-2").iterdir()} == {"one.mar", "two.mar"}


def test_commands_for_a_trace(tmp_path):
    """docs/trace.md, in a folder of `init`: it says what holds a batch up, and draws it."""
    folder = tmp_path / "my_model"
    assert main(["init", str(folder)]) == 0
    pack = printed((folder / "README.md").read_text(encoding="utf-8"))[0]
    bash(pack.partition("torchserve --start")[0], folder)

    assert "trace/trace.html" in run("docs/trace.md", folder, " trace ")
    assert {path.name for path in (folder / "trace").iterdir()} >= {"trace.png", "trace.html"}
