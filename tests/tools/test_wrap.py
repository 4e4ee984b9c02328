"""The wrap command: an archive that is there gets micro-batching, and gives it back."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import pytest

from micro_batch_handler.__main__ import main
from tests.tools.archives import entries, handler_of, too_little_room
from tests.tools.test_front import FUNCTION, OWN_HANDLE, SIZES, STAGES


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with an old archive."""
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    old_archive({"handler.py": STAGES})
    Path("sample.json").write_text('{"number": 14}')
    return tmp_path


def old_archive(files, handler="handler.py", path="old.mar", **model):
    """An archive as somebody else packed it: other dates, order and compression, odd spacing."""
    manifest = json.dumps({"model": {"modelName": "m", "handler": handler, **model}}, indent=7)
    with zipfile.ZipFile(path, "w") as archive:
        for place, (name, text) in enumerate({**files, "weights/w.bin": bytes(999)}.items()):
            info = zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 2 * place))
            info.compress_type = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[place % 2]
            archive.writestr(info, text)
        archive.writestr(zipfile.ZipInfo("MAR-INF/MANIFEST.json", (2020, 1, 1, 0, 0, 0)), manifest)


def wrap(*flags, archive="old.mar"):
    return main(["wrap", archive, *flags])


def test_a_wrapped_archive_answers_and_keeps_the_rest(capsys):
    """The new archive answers, and has every entry of the old one but another manifest."""
    before = entries("old.mar")

    assert wrap("--output", "new.mar", "--check", "sample.json") == 0

    after = entries("new.mar")
    assert handler_of("new.mar") == "handler_micro_batched.py"
    assert [e for e in before if not e[0].startswith("MAR-INF")] == [
        e for e in after[: len(before)] if not e[0].startswith("MAR-INF")
    ]
    assert entries("old.mar") == before
    assert "42" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"handler.py": STAGES}, "handler.py"),
        ({"handler.py": STAGES, "model-config.yaml": "batchSize: 8"}, "handler"),
        ({"entry.py": FUNCTION}, "entry.py:handle"),
        ({}, "base_handler"),
    ],
)
def test_unwrapping_gives_every_file_back(files, handler):
    """Wrapped in place and unwrapped, an archive has the same entries, in order, with dates."""
    old_archive(files, handler, configFile="model-config.yaml")
    before = entries("old.mar")

    assert wrap() == 0
    assert entries("old.mar") != before
    assert wrap("--unwrap") == 0

    assert entries("old.mar") == before
    assert sorted(path.name for path in Path().iterdir()) == ["old.mar", "sample.json", "temp"]


@pytest.mark.parametrize(
    ("files", "model", "says"),
    [
        ({"handler.py": OWN_HANDLE}, {}, "old.mar: handler.py line 3: Handler has a handle()"),
        ({}, {}, "old.mar has no handler.py"),
        ({"handler.py": STAGES, "handler_micro_batched.py": ""}, {}, "file handler_micro_batched"),
        ({"handler.py": STAGES, "micro_batch_handler/a.py": ""}, {}, "in it already"),
        (
            {"handler.py": STAGES, "c.yaml": "asyncCommunication: true"},
            {"configFile": "c.yaml"},
            "old.mar: c.yaml: asyncCommunication",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused(files, model, says, capsys):
    """An archive that cannot be wrapped is left as it is, and the message names the file in it."""
    old_archive(files, **model)
    before = Path("old.mar").read_bytes()

    assert wrap() == 1

    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert Path("old.mar").read_bytes() == before


def test_what_is_no_archive_is_refused(capsys):
    """A missing file, another kind of file, and a zip without a manifest are told apart."""
    Path("text.mar").write_text("text")
    with zipfile.ZipFile("plain.mar", "w") as archive:
        archive.writestr("a.txt", "a")
    with zipfile.ZipFile("odd.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")

    for name, says in {
        "absent.mar": "no such file",
        "text.mar": "is not a .mar file",
        "plain.mar": "has no MAR-INF/MANIFEST.json",
        "odd.mar": "names no handler",
    }.items():
        assert wrap(archive=name) == 1
        assert says in capsys.readouterr().err


def test_a_handler_that_cannot_share_its_model_is_not_wrapped(capsys):
    """State of preprocess that inference reads is refused if the settings take them apart."""
    across = SIZES.replace("BASE", "BaseHandler").replace("return batch", "return self.sizes")
    config = "micro_batching: {share_model: true}"
    old_archive({"handler.py": across, "c.yaml": config}, configFile="c.yaml")

    assert wrap() == 1
    assert "inference runs in another process" in capsys.readouterr().err


def test_only_what_was_wrapped_is_unwrapped(capsys):
    """Without the manifest that wrapping keeps, nothing is unwrapped; nothing is wrapped twice."""
    assert wrap("--unwrap") == 1
    assert "is not wrapped" in capsys.readouterr().err

    assert wrap() == 0
    assert wrap() == 1
    assert "in it already" in capsys.readouterr().err


def test_an_output_that_is_there_needs_force(capsys):
    """Another file is replaced on request only."""
    Path("new.mar").write_text("precious")

    assert wrap("--output", "new.mar") == 1
    assert "--force" in capsys.readouterr().err
    assert Path("new.mar").read_text() == "precious"
    assert wrap("--output", "new.mar", "--force") == 0


def test_an_output_that_cannot_be_written_is_named(capsys):
    """The message names the flag and the system's reason, not a hidden file."""
    assert wrap("--output", "/proc/new.mar") == 1

    message = capsys.readouterr().err
    assert "--output /proc/new.mar cannot be written: /proc: No such file" in message
    assert "give a folder in which this user may make files" in message


def test_a_failed_write_leaves_the_archive(capsys):
    """An archive that is wrapped in place is replaced by a whole one or not at all."""
    before = Path("old.mar").read_bytes()

    with too_little_room():
        assert wrap() == 1

    assert "File too large" in capsys.readouterr().err
    assert Path("old.mar").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["old.mar", "sample.json", "temp"]
