"""The init command: its folders work as they are, also from a wheel, and nothing is replaced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.printed import printed, printed_commands
from harness.settings import ROOT
from micro_batch_handler.__main__ import main
from micro_batch_handler.tools.init import KINDS, skeleton
from micro_batch_handler.tools.packing.model_config import read_model_config
from micro_batch_handler.tools.tuning.flags import tune_parser

SERVER_FILES = ("config.properties", "log4j2.xml", "metrics.yaml")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(capsys, *arguments: str) -> str:
    """What the command says when it refuses."""
    assert main(["init", *arguments]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_folder_is_packed_checked_and_tested_at_once(place, kind):
    """The README's first command passes its check without a note, and so do the folder's tests."""
    main(["init", "shop/my-model.2", "--kind", kind])
    folder = place / "shop" / "my-model.2"
    pack = printed((folder / "README.md").read_text())[0].partition("torchserve")[0]

    with printed_commands(folder) as run:
        told = run(pack)
        tested = run("python -m pytest -q -p no:cacheprovider")

    assert "check: status 200 application/json" in told
    assert "the same answers" in told
    assert "note:" not in told
    assert (folder / "model_store" / "my-model.2.mar").exists()
    assert "2 passed" in tested


@pytest.mark.server
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's request is curl's")
def test_the_five_steps_of_a_new_folder_work_as_they_are_printed(java, place):
    """Pack, start, ask, look at the metrics, stop: the answer is the model's, and it is counted."""
    main(["init", "irises"])
    before, after = printed((place / "irises" / "README.md").read_text())

    with printed_commands(place / "irises") as run:
        run(before)
        told = run(after)

    assert '{"species":"setosa","probability":0.9' in told
    assert re.search(r'^mbh_requests_total{ModelName="irises",.*} 1.0$', told, re.MULTILINE)
    assert "TorchServe has stopped" in told


def test_what_the_readme_says_beside_the_commands_holds(place):
    """The command that tunes has flags that there are, and the settings are those of a new user."""
    main(["init", "cats", "--kind", "image"])
    readme = (place / "cats" / "README.md").read_text()
    (tune,) = re.findall(r"`micro-batch-handler tune (.*)`", readme)

    flags = tune_parser().parse_args(tune.split())

    assert (flags.source, flags.sample) == (Path("model_store/cats.mar"), [Path("sample.png")])
    assert read_model_config(place / "cats" / flags.write)["micro_batching"]


def test_the_next_commands_are_printed(place, capsys):
    """They are those of the folder's README, with its name and sample, after the way there."""
    assert main(["init", "new/cats", "--kind", "image"]) == 0

    told = capsys.readouterr().out
    before, after = printed(told)

    assert before.startswith("cd new/cats\n")
    assert (before.removeprefix("cd new/cats\n"), after) == printed(
        (place / "new" / "cats" / "README.md").read_text()
    )
    assert "--model-name cats" in before
    assert "predictions/cats" in after
    assert '"Content-Type: image/png" -T sample.png' in after


def test_nothing_is_replaced(place, capsys):
    """Files that are there are named, all of them, and no file is written; others do not matter."""
    (place / "cats").mkdir()
    (place / "cats" / "notes.txt").write_text("mine")
    assert main(["init", "cats"]) == 0
    for name in set(files(place / "cats")) - {"handler.py", "model.py", "notes.txt"}:
        (place / "cats" / name).unlink()
    (place / "cats" / "handler.py").write_text("mine")
    before = files(place / "cats")

    told = refusal(capsys, "cats")

    assert "cats/handler.py, cats/model.py: already there" in told
    assert "move them away, or give another folder" in told
    assert files(place / "cats") == before


@pytest.mark.parametrize("name", ["my model", "-x-", "_cats", "größe"])
def test_a_folder_whose_name_no_model_can_have_is_refused(place, capsys, name):
    """The message has the name and the rule, and no folder is made."""
    told = refusal(capsys, "--", name)

    assert repr(name) in told
    assert "begin with a letter or digit" in told
    assert not [*place.iterdir()]


def test_a_file_in_place_of_the_folder_is_refused(place, capsys):
    """The message names it, and the file stays."""
    (place / "cats").write_text("mine")

    assert "cats: Not a directory" in refusal(capsys, "cats")
    assert (place / "cats").read_text() == "mine"


def test_the_folder_that_one_is_in_is_a_folder_too(place, monkeypatch):
    """`init .` names the model after it."""
    (place / "cats").mkdir()
    monkeypatch.chdir(place / "cats")

    assert main(["init", "."]) == 0
    assert "--model-name cats" in (place / "cats" / "README.md").read_text()


def test_the_servers_files_are_those_of_the_repository():
    """Both are real files: a link would be lost where one is copied from a page, or on Windows."""
    content = skeleton("json", "cats")

    for name in SERVER_FILES:
        assert content[name] == (ROOT / name).read_bytes(), f"{name} differs: copy it"


def test_a_wheel_has_all_that_init_writes(place):
    """The command writes the same folder from a wheel as from a checkout."""
    pytest.importorskip("setuptools", reason="builds the wheel")
    source = place / "source"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "micro_batch_handler", source / "micro_batch_handler", ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "-m pip wheel -q --no-deps --no-build-isolation --no-index ./source"
    subprocess.run([sys.executable, *build.split()], check=True)
    (wheel,) = place.glob("*.whl")
    # Python imports from a wheel as from any zip file.
    environment = {**os.environ, "PYTHONPATH": str(wheel)}

    for kind in KINDS:
        command = f"-m micro_batch_handler init new/{kind} --kind {kind}"
        subprocess.run([sys.executable, *command.split()], env=environment, check=True)

        assert files(place / "new" / kind) == skeleton(kind, kind)
