"""A finished archive, tried: unpacked as TorchServe would, and asked in a process of its own.

check_archive     in this process: starts the other one and reads its report
  run             in the other one: loads the model as worker.py does, asks it, writes a report
    alone         each request alone
    batches       all requests at once, cut in the ways of ways.py
    answers       compares what comes back
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.formats import unpack

__all__ = ["add_check_flag", "check_archive", "refuse_absent"]

CHECK_TIMEOUT_S = 300.0

GRACE_S = 3.0
"""For processes that the handler has left behind to end by themselves."""

LOOK_EVERY_S = 0.05

LONGEST_TEMPORARY = 75
"""Characters of a folder in which there is room for the path of a shared model's Unix socket."""

_LOG_LINES = 25

_NOISE = ("[METRICS]", "Backend received inference at: ")
"""How lines of the log begin that are there for every request."""

_RUN = """
import sys, types
checking = types.ModuleType("micro_batch_handler.tools.checking")
checking.__path__ = [sys.argv.pop(1)]
sys.modules[checking.__name__] = checking
from micro_batch_handler.tools.checking.run import main
main()
"""
"""The other process's program: it imports files of this folder by their full names.

The archive's own `micro_batch_handler`, which has no tools, is neither hidden nor imported by that:
Python finds the package `checking` in `sys.modules` and looks no further. The folder is not on the
import path, so the handler cannot import these files by accident.
"""


def add_check_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--check`, which takes the samples for `check_archive`."""
    parser.add_argument(
        "--check",
        metavar="SAMPLE",
        type=Path,
        nargs="+",
        help="Files with the body of one request each: a .json is sent as application/json, any\n"
        "other (a photo) without a content type, as curl -T does. When the archive is\n"
        "written, load it through TorchServe's own model loader in a fresh process, send it\n"
        "these requests alone, in one batch, and in a batch cut in several ways, and print the\n"
        "first answer. Fails unless the status of each is 200, and if an answer changes when\n"
        "the batch is cut; several different samples show more than one. With share_model both\n"
        "sides are loaded and asked together: the process with the model, and a worker.",
    )


def refuse_absent(flag: str, samples: Sequence[Path] | None) -> None:
    """Refuse a sample that is no file, before anything is written.

    Raises:
        ArchiveError: the message names the flag and the sample.
    """
    for sample in samples or ():
        if not sample.is_file():
            raise ArchiveError(f"{flag} {sample}: there is no such file")


def check_archive(
    archive: Path, style: str, samples: Sequence[Path], timeout_s: float = CHECK_TIMEOUT_S
) -> str:
    """Load the archive through TorchServe, send it the samples, and return the text to print.

    Args:
        archive: a file or a folder.
        style: its format, by its name in `--archive-format`.
        samples: files with the body of one request each.
        timeout_s: how long the other process may take.

    Raises:
        ArchiveError: it does not load, a sample's answer has another status than 200, or answers
            differ when their batch is cut.
    """
    with tempfile.TemporaryDirectory(prefix="micro-batch-check-") as private:
        model, outcome, log = (Path(private, name) for name in ("model", "outcome", "log"))
        unpack(archive, style, model)
        outcome.mkdir()
        ended = _run_process(model, samples, outcome, log, timeout_s)
        report = outcome / "report.json"
        if report.exists():
            result = json.loads(report.read_text(encoding="utf-8"))
        else:
            doing = outcome / "doing"
            what = f" {doing.read_text(encoding='utf-8')}" if doing.exists() else ""
            result = {"failure": f"the process that loads it {ended} before it answered{what}"}
        if result["failure"]:
            raise ArchiveError(
                f"{archive} is written, but fails its check: {result['failure']}{_last_lines(log)}"
            )
        return "\n".join(result["lines"])


def _run_process(
    model: Path, samples: Sequence[Path], outcome: Path, log: Path, timeout_s: float
) -> str:
    """Run the other process where TorchServe runs its workers; return how it ended, in words."""
    environment = dict(os.environ)
    # TorchServe puts the archive's root on the import path of its worker.
    given = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(model), given] if given else [str(model)])
    environment.pop("LOCAL_RANK", None)  # a rank other than 0 gives no answer
    if len(os.fsencode(outcome)) <= LONGEST_TEMPORARY:
        environment["TMPDIR"] = str(outcome)  # so that nothing stays there either
    paths = [Path(__file__).parent, model, *(sample.resolve() for sample in samples), outcome]
    command = [sys.executable, "-c", _RUN, *map(str, paths), f"{timeout_s:g}"]
    # The log is a file, not a pipe: a process that the handler leaves behind would keep it open.
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - this very Python, with paths of ours
            command,
            cwd=model,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return f"ended with status {process.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            return f"was stopped after {timeout_s:g} s"
        finally:
            process.kill()
            process.wait()
            _end_group(process.pid)


def _end_group(group: int) -> None:
    """End what a process has left behind; the process of a shared model ends by itself."""
    until_s = time.monotonic() + GRACE_S
    with suppress(ProcessLookupError):
        while time.monotonic() < until_s:
            os.killpg(group, 0)
            time.sleep(LOOK_EVERY_S)
        os.killpg(group, signal.SIGKILL)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if not line.startswith(_NOISE)]
    return "".join(f"\n  | {line}" for line in telling[-_LOG_LINES:])
