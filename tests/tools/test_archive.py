"""The archive command: what it packs, what it refuses, that it repeats itself, and --check."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from micro_batch_handler.__main__ import main
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools import archive as archive_flags
from micro_batch_handler.tools.checking.answers import parse_response, readable
from micro_batch_handler.tools.checking.check import check_archive
from micro_batch_handler.tools.checking.worker import encode_request
from tests.tools.archives import too_little_room

FORMATS = {"default": "m.mar", "zip-store": "m.mar", "tgz": "m.tar.gz", "no-archive": "m"}

HANDLER = """
import threading

import micro_batch_handler
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.context = context
        threading.Thread(target=threading.Event().wait).start()  # not a daemon, and never ends

    def handle(self, data, context):
        word = data[0]["body"]["word"]
        if word == "raise":
            raise ValueError("no such word")
        if word == "teapot":
            context.set_response_status(418, "I am a teapot", 0)
        return [{"word": word, "package": micro_batch_handler.__file__}]
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a handler to work in, an empty one to export to, a temp folder to look into."""
    (tmp_path / "handler.py").write_text(HANDLER)
    (tmp_path / "out").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return tmp_path


def pack(*flags, handler="handler.py"):
    """Run the command in this process; its exit status."""
    common = ["--model-name", "m", "--version", "1.0", "--export-path", "out"]
    return main(["archive", *common, "--handler", handler, *map(str, flags)])


def refused(capsys, *flags, handler="handler.py"):
    """Run the command, which must fail and leave nothing behind; its message."""
    before = sorted(Path().rglob("*"))
    status = pack(*flags, handler=handler)

    assert status == 1
    assert sorted(Path().rglob("*")) == before
    output, message = capsys.readouterr()
    assert output == ""
    assert message.startswith("micro-batch-handler archive: error: ")
    assert message.count("\n") == 1
    return message


def mar_names(path="out/m.mar"):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def manifest(path="out/m.mar"):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("MAR-INF/MANIFEST.json"))


def snapshot(path):
    """All that two equal outputs share: bytes; for a folder also names, times and modes."""
    if path.is_file():
        return path.read_bytes()
    return [
        (
            item.relative_to(path),
            item.stat().st_mtime,
            item.stat().st_mode,
            item.is_file() and item.read_bytes(),
        )
        for item in [path, *sorted(path.rglob("*"))]
    ]


# Commands and flags


def test_every_archiver_flag_is_there():
    """Each flag of torch-model-archiver is ours too, with its default and its choices."""

    def table(parser):
        return {
            option: (action.dest, action.required, action.default, action.choices)
            for action in parser._actions
            for option in action.option_strings
        }

    theirs, ours = table(archive_flags.archiver_parser()), table(archive_flags.archive_parser())

    assert {"--model-name", "--extra-files", "-c", "-r", "-f"} <= set(theirs)
    assert ours.items() >= theirs.items()
    assert set(ours) - set(theirs) == {"--check", "--micro-batch"}


def test_archiver_is_left_as_it_was():
    """Taking the archiver's parser does not change the archiver or argparse."""
    import argparse

    from model_archiver import arg_parser

    archive_flags.archiver_parser()

    assert arg_parser.argparse is argparse


def test_archiver_that_parses_otherwise_is_named(monkeypatch):
    """If a later archiver does not parse where it builds, the message says which one is needed."""
    from model_archiver.arg_parser import ArgParser

    monkeypatch.setattr(ArgParser, "export_model_args_parser", lambda: None)

    with pytest.raises(ArchiveError, match="install torch-model-archiver"):
        archive_flags.archiver_parser()


@pytest.mark.parametrize("flags", [[], ["archive"], ["bake"], ["archive", "--oops"]])
def test_usage_errors_exit_with_2(flags, capsys):
    """Wrong usage ends as argparse ends it, with the usage on stderr."""
    with pytest.raises(SystemExit) as ended:
        main(flags)

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: micro-batch-handler")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--help"], "archive "),
        (["--version"], "micro-batch-handler 0."),
        (["archive", "--help"], "--check SAMPLE"),
    ],
)
def test_help_and_version(flags, said, capsys):
    """The program says its commands and its version, a command its flags."""
    with pytest.raises(SystemExit) as ended:
        main(flags)

    assert ended.value.code == 0
    assert said in capsys.readouterr().out


def test_packing_imports_no_torch():
    """The command packs in a process in which torch and TorchServe cannot be imported."""
    code = (
        "import sys; sys.modules.update(torch=None, ts=None)\n"
        "from micro_batch_handler.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    flags = ["--model-name", "m", "--version", "1", "--handler", "handler.py"]
    done = subprocess.run(
        [sys.executable, "-c", code, "archive", *flags],
        env={**os.environ, "PYTHONPATH": str(Path(archive_flags.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert Path("m.mar").is_file()


# What is packed


def test_archive_holds_the_package_and_the_inputs(capsys):
    """All files are in the root, the package beside them without its tools and caches."""
    for name in ("model.pt", "requirements.txt", "a.json", "b.json"):
        Path(name).write_text(name)
    Path("model.py").write_text("class Net: pass\n")
    Path("model-config.yaml").write_text("batchSize: 8\n")
    Path("folder/__pycache__").mkdir(parents=True)
    for name in (
        "folder/deep/x.txt",
        "folder/.git/x",
        "folder/deep/__pycache__/x.pyc",
        "folder/c.txt",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("other/__pycache__").mkdir(parents=True)

    status = pack(
        *("--model-file", "model.py", "--serialized-file", "model.pt"),
        *("-r", "requirements.txt", "-c", "model-config.yaml"),
        *("--extra-files", "folder, *.json,other,"),
    )

    assert status == 0
    names = mar_names()
    package = {name for name in names if name.startswith("micro_batch_handler/")}
    assert set(names) - package == {
        "MAR-INF/MANIFEST.json",
        "a.json",
        "b.json",
        "c.txt",
        "deep/x.txt",
        "handler.py",
        "model-config.yaml",
        "model.pt",
        "model.py",
        "requirements.txt",
    }
    assert names == sorted(set(names))
    parts = {part for name in package for part in Path(name).parts}
    assert {"__init__.py", "config", "pipeline", "torchserve"} <= parts
    assert not {"tools", "__main__.py", "__pycache__"} & parts
    assert manifest()["model"] == {
        "modelName": "m",
        "serializedFile": "model.pt",
        "handler": "handler.py",
        "modelFile": "model.py",
        "modelVersion": "1.0",
        "requirementsFile": "requirements.txt",
        "configFile": "model-config.yaml",
    }
    line = capsys.readouterr().out
    data = Path("out/m.mar").read_bytes()
    assert line.startswith(f"out/m.mar: {len(data) / 1000:.1f} kB, {len(names)} files, sha256 ")
    assert line.endswith(hashlib.sha256(data).hexdigest()[:16] + "\n")


def test_tgz_keeps_the_layout_that_torchserve_unpacks():
    """Everything lies below one folder, named as the model, and only files are listed."""
    assert pack("--archive-format", "tgz") == 0

    with tarfile.open("out/m.tar.gz") as archive:
        members = archive.getmembers()
    assert {member.name.partition("/")[0] for member in members} == {"m"}
    assert "m/MAR-INF/MANIFEST.json" in [member.name for member in members]
    assert all(member.isfile() for member in members)


@pytest.mark.parametrize("style", ["zip-store", "default"])
def test_zip_entries_are_stored_or_deflated(style):
    """zip-store only stores, default deflates, and neither needs a trailing size to be read."""
    pack("--archive-format", style)

    with zipfile.ZipFile("out/m.mar") as archive:
        kinds = {info.compress_type for info in archive.infolist()}
        flags = {info.flag_bits & 0x08 for info in archive.infolist()}
    assert kinds == {zipfile.ZIP_STORED if style == "zip-store" else zipfile.ZIP_DEFLATED}
    assert flags == {0}  # TorchServe reads a stored entry only with its size in front


def test_built_in_handler_is_packed_with_a_note(capsys):
    """A name of TorchServe's own handler is accepted; a note says that it does not micro-batch."""
    Path("c.yaml").write_text("asyncCommunication: true\n")  # which such a handler may need

    assert pack("-c", "c.yaml", handler="image_classifier") == 0

    assert "image_classifier does not micro-batch" in capsys.readouterr().err
    assert manifest()["model"]["handler"] == "image_classifier"
    assert "image_classifier.py" not in mar_names()


@pytest.mark.parametrize("handler", ["entry.py:serve", "entry:serve", "entry"])
def test_handler_may_be_a_function(handler):
    """A handler is a file, with or without .py, and may name its function after a colon."""
    Path("entry.py").write_text("def serve(data, context): ...\nhandle = serve\n")

    assert pack(handler=handler) == 0

    assert manifest()["model"]["handler"] == handler
    assert "entry.py" in mar_names()


# The same archive each time


@pytest.mark.parametrize(("style", "name"), FORMATS.items())
def test_same_inputs_give_the_same_bytes(style, name, place, monkeypatch):
    """Other times, another temp folder and another order on disk do not change the output."""
    texts = {f"extra/{letter}.txt": letter for letter in "dbca"}
    Path("extra").mkdir()
    flags = ("--archive-format", style, "--extra-files", "extra")
    for path, text in texts.items():
        Path(path).write_text(text)
    assert pack(*flags) == 0
    first = snapshot(Path("out", name))

    Path("out").rename("first")
    Path("out").mkdir()
    (place / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place / "elsewhere"))
    for path, text in reversed(texts.items()):
        Path(path).unlink()
        Path(path).write_text(text)
        Path(path).chmod(0o600)
        os.utime(path, (2e9, 2e9))
    assert pack(*flags) == 0

    assert snapshot(Path("out", name)) == first
    assert tempfile.tempdir == str(place / "elsewhere")
    assert list(Path("temp").iterdir()) == list(Path("elsewhere").iterdir()) == []


def test_source_date_epoch_is_honoured(monkeypatch):
    """SOURCE_DATE_EPOCH gives the manifest its time and the entries theirs."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    assert pack() == pack("--archive-format", "tgz") == 0

    assert manifest()["createdOn"] == "14/11/2023 22:13:20"
    with zipfile.ZipFile("out/m.mar") as archive:
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
    with tarfile.open("out/m.tar.gz") as archive:
        assert {member.mtime for member in archive.getmembers()} == {1700000000}
    assert Path("out/m.tar.gz").read_bytes()[4:8] == (1700000000).to_bytes(4, "little")


def test_without_source_date_epoch_the_time_is_fixed():
    """The manifest does not say when it was made, and early dates become the first of a zip."""
    assert pack() == 0
    assert manifest()["createdOn"] == "01/01/1980 00:00:00"


def test_bad_source_date_epoch_is_refused(capsys, monkeypatch):
    """A SOURCE_DATE_EPOCH that is no number is refused."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")

    assert "whole seconds, found 'yesterday'" in refused(capsys)


# What is refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model-name", "a/b"], "Model name contains special characters"),
        (["--export-path", "nowhere"], "nowhere is not a directory"),
        (["--export-path", "/proc"], "--export-path /proc cannot be written: /proc: No such file"),
        (["--runtime", "LSP"], "handlers in C++"),
        (["--version", "1 0/x"], "--version '1 0/x' must be letters, digits and . _ - +"),
        (["--version", ""], "it is a part of the address /predictions/m/VERSION"),
        (["--version", ".."], "--version '..' must be"),
        (["--handler", "absent.py"], "--handler absent.py: there is no such file"),
        (["--model-file", "absent.py"], "--model-file absent.py: there is no such file"),
        (["--serialized-file", "absent.pt"], "--serialized-file absent.pt: there is no such"),
        (["-r", "absent.txt"], "--requirements-file absent.txt: there is no such file"),
        (["-c", "absent.yaml"], "--config-file absent.yaml: there is no such file"),
        (["-c", "out"], "--config-file out: there is no such file"),
        (["--extra-files", "handler.py,absent"], "--extra-files absent: there is no such file"),
        (["--extra-files", "*.absent"], "--extra-files *.absent: there is no such file"),
        (["--check", "absent.json"], "--check absent.json: there is no such file"),
    ],
)
def test_bad_flags_are_refused(flags, said, capsys):
    """A missing file, a bad name or an impossible runtime is refused, naming the flag."""
    assert said in refused(capsys, *flags)


@pytest.mark.parametrize(
    ("made", "flags", "said"),
    [
        ("micro_batch_handler.py", ["--handler"], "hide the package micro_batch_handler"),
        ("micro_batch_handler.py", ["--model-file"], "hide the package micro_batch_handler"),
        ("x/micro_batch_handler/a.txt", ["--extra-files", "x"], "adds by itself"),
        ("x/micro_batch_handler.so", ["--extra-files", "x"], "adds by itself"),
        ("ts.py", ["--extra-files"], "hide TorchServe (ts)"),
        ("x/torch/__init__.py", ["--extra-files", "x"], "hide PyTorch (torch)"),
        ("x/MAR-INF/MANIFEST.json", ["--extra-files", "x"], "keeps its manifest"),
        ("x/handler.py", ["--extra-files", "x"], "would both be handler.py"),
        ("y/a/b.txt", ["--extra-files", "y/a,y/*/b.txt,z/b.txt"], "would both be b.txt"),
        ("my.handler.py", ["--handler"], "one dot"),
    ],
)
def test_names_that_clash_are_refused(made, flags, said, capsys):
    """A name that hides a module from the worker, or clashes with another file, is refused."""
    for name in (made, "z/b.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("class Handler(Base): ...")
    flags = flags if len(flags) == 2 else [*flags, made]

    assert said in refused(capsys, *flags)


def test_names_that_only_look_like_modules_are_packed(capsys):
    """Data named as a module hides nothing; a module named as one of Python's gets a note."""
    for name in ("x/ts.json", "x/torch/weights.pt", "x/queue.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")

    assert pack("--extra-files", "x") == 0

    assert {"ts.json", "torch/weights.pt", "queue.py"} <= set(mar_names())
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1
    assert "hides Python's own module queue" in notes[0]


SEEN = """
from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    def preprocess(self, data):
        self.seen = len(data)
        return data
"""


@pytest.mark.parametrize(
    ("source", "section", "notes"),
    [
        (SEEN, "{}", 1),
        (SEEN, "{parallelism: {preprocess: 2}}", 0),
        (SEEN, "{share_model: true}", 0),
        (f"{SEEN}\n    thread_safe = True\n", "{}", 0),
        (SEEN.replace("self.seen = len(data)", "seen = len(data)"), "{}", 0),
    ],
)
def test_a_stage_that_gets_one_lane_is_noted(source, section, notes, capsys):
    """What stands in the way of several lanes is said when the handler is packed, too."""
    Path("seen.py").write_text(source)
    Path("config.yaml").write_text(f"micro_batching: {section}\n")

    assert pack("--config-file", "config.yaml", handler="seen.py") == 0

    told = [line for line in capsys.readouterr().err.splitlines() if "one lane" in line]
    assert notes == len(told)
    assert all("preprocess gets one lane, since it stores self.seen (line 6)" in it for it in told)


def test_broken_link_among_the_extra_files_is_refused(capsys):
    """A link into nowhere is named instead of being left out."""
    Path("x").mkdir()
    Path("x/gone.txt").symlink_to("nowhere.txt")

    assert "x/gone.txt: there is no such file" in refused(capsys, "--extra-files", "x")


def test_archive_never_packs_itself(capsys):
    """Extra files that hold the place of the output are refused: the next archive would differ."""
    assert "which is what is being made" in refused(capsys, "--extra-files", ".")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "makes no class and has no function handle"),
        ("from a import Handler", "makes no class"),
        ("class A(B): ...\nclass C(B): ...", "makes 2 classes (A, C)"),
        ("class A(B): ...\nif x:\n    class C(B): ...", "makes 2 classes (A, C)"),
        ("class A(B): ...\ntry:\n    import z\nexcept E:\n    class z(B): ...", "2 classes"),
        ("class A(B): ...\nalias = A", "makes 2 classes (A, alias)"),
        ("P = collections.namedtuple('P', 'x')\nclass A(B): ...", "makes 2 classes (P, A)"),
        ("class A:\n    def handle(self): ...", "class A in entry.py has no method initialize"),
        ("class A: ...", "no method initialize and no handle"),
        ("from .x import B\nclass A(B): ...", "line 1 imports relatively"),
        ("class A(B):\n  def", "line 2 is not Python"),
        ("class A(B): ...\0", "is not Python"),
        (
            "class A(MicroBatchHandler):\n    async def inference(self, x): ...",
            "2: A.inference",
        ),
        (
            "class A(MicroBatchMixin, B):\n    async def handle(self, d, c): ...",
            "handle is async",
        ),
        ("class A(BaseHandler):\n    async def preprocess(self, x): ...", "nobody would await it"),
        ("class A(m.BaseHandler):\n    @abc.abstractmethod\n    def f(self): ...", "A is abstract"),
        ("class TYPE_CHECKING: ...\nif TYPE_CHECKING:\n    class A(B): ...", "no method"),
    ],
)
def test_handler_files_that_cannot_be_loaded_are_refused(source, said, capsys):
    """A file that the model loader would refuse is refused without running it."""
    Path("entry.py").write_text(source)

    assert said in refused(capsys, handler="entry.py")


@pytest.mark.parametrize(
    "source",
    [
        "class A(B): ...",
        "class A(B):\n    class Inner: ...",
        "from a import C, D\nclass A(C): ...",
        "if x:\n    class A(B): ...\nelse:\n    class A(C): ...",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    class P: ...\nclass A(B): ...",
        "class A(B): ...\nif __name__ == '__main__':\n    class T: ...",
        "class A: ...\nclass C: ...\ndef handle(data, context): ...",
        "class A: ...\nclass C: ...\nhandle = A().run",
        "from service import handle",
        "from service import *",
        "def make():\n    class A: ...\nclass C(B): ...",
        "class A(B): ...\nclass C(A): ...\ndel A",
        "class A:\n    initialize = handle = None",
        "@decorated\nclass A: ...",
        "try:\n    from .x import B\nexcept ImportError:\n    from x import B\nclass A(B): ...",
        "kind = type(x)\nclass A(B): ...",
        "class A(BaseHandler):\n    async def handle(self, d, c): ...\n"
        "    async def preprocess(self, x): ...",
        "class A(B):\n    @abstractmethod\n    def f(self): ...",
    ],
)
def test_handler_files_that_can_be_loaded_are_packed(source):
    """One class of its own, or a function named handle, is all that a handler file needs."""
    Path("entry.py").write_text(source)

    assert pack(handler="entry.py") == 0


PLAIN = "class A(BaseHandler):\n    def initialize(self, context): ...\n"
SUPER = "class A(BaseHandler):\n    def initialize(self, c):\n        super().initialize(c)\n"


@pytest.mark.parametrize(
    ("source", "section", "is_said"),
    [
        (PLAIN, "micro_batching: {micro_batch_size: 2}", True),
        ("def handle(data, context): ...", "micro_batching: {}", True),
        (PLAIN, "maxBatchDelay: 1", False),
        (PLAIN.replace("BaseHandler", "MicroBatchHandler"), "micro_batching: {}", False),
        (PLAIN.replace("BaseHandler", "imported.Base"), "micro_batching: {}", False),
        (f"{SUPER}        self.handle = MicroBatching(self)", "micro_batching: {}", False),
    ],
)
def test_a_section_that_nothing_reads_is_noted(source, section, is_said, capsys):
    """A handler without micro-batching is packed, and the two ways to have it are named."""
    Path("entry.py").write_text(source)
    Path("c.yaml").write_text(f"batchSize: 8\n{section}\n")

    assert pack("-c", "c.yaml", handler="entry.py") == 0

    said = capsys.readouterr().err
    assert ("entry.py does not micro-batch" in said) == is_said
    assert ("--micro-batch" in said) == ("MicroBatchHandler" in said) == is_said


@pytest.mark.parametrize(
    ("handler", "flags", "is_said"),
    [
        ("class A(BaseHandler): ...", [], True),
        ("class A(BaseHandler): ...", ["--micro-batch"], True),
        ("class A(MicroBatchMixin, ImageClassifier): ...", [], True),
        (SUPER, [], True),
        (SUPER, ["--serialized-file", "w.pt"], False),
        (SUPER, ["--model-file", "model.py"], False),
        (PLAIN, [], False),
        ("class A(Other): ...", [], False),
        ("image_classifier", [], True),
        ("vllm_handler", [], False),
    ],
)
def test_weights_that_are_missing_are_noted(handler, flags, is_said, capsys):
    """A handler whose `initialize` is BaseHandler's cannot load without a model's file."""
    Path("w.pt").touch()
    Path("model.py").write_text("class Net: ...")
    if "class" in handler and " " in handler:
        Path("entry.py").write_text(handler)
        handler = "entry.py"

    assert pack(*flags, handler=handler) == 0

    assert ("give --serialized-file, or --model-file" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize(
    ("function", "said"),
    [("serve", "has no function serve"), ("Handler", "Handler in handler.py is a class")],
)
def test_handler_function_must_be_a_function(function, said, capsys):
    """The name after the colon must be bound in the file, and not to a class."""
    assert said in refused(capsys, handler=f"handler.py:{function}")


def test_bad_config_is_refused_before_anything_is_written(capsys):
    """A bad micro_batching section stops the build; test_model_config.py has the other cases."""
    Path("c.yaml").write_text("micro_batching: {parallelism: 0}\n")

    message = refused(capsys, "-c", "c.yaml")

    assert (
        "c.yaml: micro_batching.parallelism must be a whole number >= 1 or 'auto', found 0"
        in message
    )


def test_note_on_a_model_file_with_several_classes(capsys):
    """A handler may load such a file by itself, so it is packed; the note names who cannot."""
    Path("model.py").write_text("class A: ...\nclass B: ...\n")

    assert pack("--model-file", "model.py") == 0

    assert "model.py does not make exactly one class" in capsys.readouterr().err


# The output


@pytest.mark.parametrize(("style", "name"), FORMATS.items())
def test_existing_output_needs_force(style, name, capsys):
    """An existing archive is kept as it is without --force and replaced with it."""
    Path("queue.py").write_text("")  # earns a note, which a refusal must not be preceded by
    flags = ("--archive-format", style, "--extra-files", "queue.py")
    assert pack(*flags) == 0
    old = snapshot(Path("out", name))
    Path("handler.py").write_text(HANDLER + "# changed\n")
    capsys.readouterr()

    assert f"out/{name} exists; give --force" in refused(capsys, *flags)
    assert snapshot(Path("out", name)) == old

    assert pack(*flags, "--force") == 0
    assert snapshot(Path("out", name)) != old
    assert [path.name for path in Path("out").iterdir()] == [name]


def test_force_never_replaces_what_is_no_archive(capsys):
    """A folder of the user's own at the place of the output is kept, --force or not."""
    for folder in ("out/m", "out/m.mar"):
        Path(folder).mkdir()
        Path(folder, "precious.txt").write_text("")

    message = refused(capsys, "--force", "--archive-format", "no-archive")
    assert "out/m is not an archive" in message
    assert "out/m.mar is a folder" in refused(capsys, "--force")


def test_failed_write_leaves_the_old_archive(capsys):
    """When writing fails half-way, the archive that was there is still whole, and nothing else."""
    assert pack() == 0
    old = snapshot(Path("out"))
    capsys.readouterr()

    with too_little_room():
        assert "File too large" in refused(capsys, "--force")
    assert [path.name for path in Path("out").iterdir()] == ["m.mar"]
    assert snapshot(Path("out/m.mar")) == old[1][3]


def test_failed_move_brings_the_old_folder_back(capsys, monkeypatch):
    """When the new folder cannot be moved in, the old one is put back."""
    flags = ("--archive-format", "no-archive", "--force")
    assert pack(*flags) == 0
    rename = Path.rename

    def only_old(self, target):
        if self.name.endswith(".new"):
            raise OSError(13, "Permission denied")
        return rename(self, target)

    capsys.readouterr()
    monkeypatch.setattr(Path, "rename", only_old)

    assert "Permission denied" in refused(capsys, *flags)


def test_builds_of_one_name_do_not_meet(place):
    """Processes that build the same name at once, in one temp folder, each get their own files."""
    command = [sys.executable, "-m", "micro_batch_handler", "archive", "--model-name", "m"]
    root = str(Path(archive_flags.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(place / "temp")}
    running = []
    for number in range(4):
        Path(f"{number}/in").mkdir(parents=True)
        for part in range(50):
            Path(f"{number}/in/{part}.txt").write_text(f"{number} {part}")
        flags = ["--version", "1", "--handler", "handler.py", "--export-path", f"{number}"]
        extra = ["--extra-files", f"{number}/in"]
        running.append(
            subprocess.Popen([*command, *flags, *extra], env=environment, stdout=subprocess.PIPE)
        )
    for process in running:
        process.communicate()

    assert [process.returncode for process in running] == [0] * 4
    for number in range(4):
        with zipfile.ZipFile(f"{number}/m.mar") as archive:
            texts = [archive.read(f"{part}.txt").decode() for part in range(50)]
        assert texts == [f"{number} {part}" for part in range(50)]


# --check


def ask(word):
    Path("sample.json").write_text(json.dumps({"word": word}))
    return pack("--check", "sample.json", "--force")


def test_check_prints_the_answer_of_the_archive(capsys):
    """A fresh process loads the archive, not the checkout, and its answer is printed."""
    assert ask("hello") == 0

    output = capsys.readouterr().out
    written, status, answer = output.split("\n", 2)
    assert written.startswith("out/m.mar: ")
    assert status == "check: status 200"
    answer, _, asked = answer.partition("\ncheck: ")
    answer = json.loads(answer)
    assert asked.startswith("6 requests alone and in one batch: ")
    assert answer["word"] == "hello"
    assert Path(answer["package"]).parts[-3:] == ("model", "micro_batch_handler", "__init__.py")
    assert not Path(answer["package"]).exists()  # a temp folder's, gone by now
    assert list(Path("temp").iterdir()) == []


def test_check_fails_with_the_cause_of_a_503(capsys):
    """TorchServe hides an exception behind a 503; the check says which one it was, and where."""
    assert ask("raise") == 1

    message = capsys.readouterr().err
    assert message.splitlines()[0] == (
        "micro-batch-handler archive: error: out/m.mar is written, but fails its check: "
        "its answer is 503 Prediction failed: ValueError: no such word"
    )
    assert 'raise ValueError("no such word")' in message
    assert Path("out/m.mar").exists()


def test_check_fails_with_the_real_cause_of_a_failed_load(capsys):
    """An import that fails in the handler is named, not the built-in handler looked for next."""
    Path("handler.py").write_text("import absent_module\n" + HANDLER)

    assert ask("hello") == 1

    message = capsys.readouterr().err
    assert message.splitlines()[0].endswith(
        "out/m.mar is written, but fails its check: TorchServe cannot load it: "
        "ModuleNotFoundError: No module named 'absent_module'"
    )
    assert Path("out/m.mar").exists()


def test_check_reads_the_status_of_the_request(capsys):
    """A status that the handler sets for the request alone fails the check too."""
    assert ask("teapot") == 1

    assert "its answer is 418 I am a teapot: {" in capsys.readouterr().err


def test_check_fails_if_the_process_ends(capsys):
    """A process that says nothing is reported with its status and its last words."""
    Path("handler.py").write_text(f"import os\nprint('last', flush=True)\nos._exit(3)\n{HANDLER}")

    assert ask("hello") == 1

    said = capsys.readouterr().err
    assert "the process that loads it ended with status 3 before it answered\n" in said
    assert said.endswith("\n  | last\n")


def test_check_fails_if_the_process_hangs():
    """A process that says nothing for too long is stopped."""
    assert pack() == 0
    Path("sample.json").write_text("{}")

    with pytest.raises(ArchiveError, match=r"was stopped after 0\.1 s before it answered$"):
        check_archive(Path("out/m.mar"), "default", [Path("sample.json")], timeout_s=0.1)


PROBE = """
import os
from pathlib import Path

import micro_batch_handler

root = Path(micro_batch_handler.__file__).parents[1]
assert os.path.samefile(root, ".")
assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(root)

def handle(data, context):
    return data and ["as on a server"] * len(data)
"""


@pytest.mark.parametrize("style", ["tgz", "no-archive"])
def test_check_serves_an_archive_as_torchserve_would(style, capsys):
    """The process finds the archive's root in its folder and on its path, and leaves no files."""
    Path("sample.json").write_text("{}")
    Path("probe.py").write_text(PROBE)

    assert pack("--archive-format", style, "--check", "sample.json", handler="probe.py") == 0

    assert "check: status 200\nas on a server\n" in capsys.readouterr().out
    assert not list(Path("out").rglob("__pycache__"))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a":1}', '{\n  "a": 1\n}'),
        (b"plain \xc3\xa9", "plain é"),
        (b"two\nlines", "two\nlines"),
        (b"\xff\xd8\xff", "3 bytes"),
        (b"a\0b", "3 bytes"),
    ],
)
def test_answers_are_shown_so_that_a_terminal_can_take_them(body, shown):
    """JSON is laid out, text is shown as it is, and of bytes only the number is said."""
    assert readable(body) == shown


def test_predict_messages_are_read_as_torchserve_writes_them():
    """A response is parsed field by field: headers are passed over, the body is kept."""

    def field(value):
        return len(value).to_bytes(4, "big") + value

    def number(value):
        return value.to_bytes(4, "big", signed=True)

    response = number(200) + field(b"Prediction success") + field(b"id") + field(b"text/plain")
    response += number(404) + field(b"Not here") + number(1) + field(b"k") + field(b"v")
    (answer,) = parse_response(response + field(b"body") + number(-1))

    assert (answer.status, answer.content_type, answer.body) == (404, "text/plain", b"body")
    assert answer.problem == "its answer is 404 Not here: body"
    assert encode_request(b"xyz", "a/b").endswith(field(b"a/b") + field(b"xyz") + number(-1) * 2)
