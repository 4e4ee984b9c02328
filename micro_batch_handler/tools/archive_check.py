"""A finished archive, tried: unpacked as TorchServe would and asked one request in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.archive_formats import unpack

__all__ = ["check_archive"]

CHECK_TIMEOUT_S = 300.0

_LOG_LINES = 25

# Not `python check_worker.py`: that would put this folder, full of modules that the archive does
# not have, first on the import path of the handler. Like this the archive's root is first.
_RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def check_archive(
    archive: Path, archive_format: str, sample: Path, timeout_s: float = CHECK_TIMEOUT_S
) -> str:
    """Load the archive through TorchServe, send it the sample, and return what to print.

    Raises:
        ArchiveError: it does not load, or its answer has another status than 200.
    """
    with tempfile.TemporaryDirectory(prefix="micro-batch-check-") as private:
        model = Path(private, "model")
        unpack(archive, archive_format, model)
        outcome = Path(private, "outcome")
        outcome.mkdir()
        log = Path(private, "log")
        ended = _run_worker(model, sample.resolve(), outcome, log, timeout_s)
        report = outcome / "report.json"
        if report.exists():
            result = json.loads(report.read_text(encoding="utf-8"))
            failure = str(result["failure"])
        else:
            result, failure = {}, f"the process that loads it {ended} before it answered"
        if failure:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n".join(f"  | {line}" for line in lines[-_LOG_LINES:])
            raise ArchiveError(
                f"{archive} is written, but fails its check: {failure}"
                + (f"\n{tail}" if tail else "")
            )
        answer = _readable((outcome / "answer").read_bytes())
        kind = f" {result['content_type']}" if result["content_type"] else ""
        return f"check: status {result['status']}{kind}\n{answer}"


def _run_worker(model: Path, sample: Path, outcome: Path, log: Path, timeout_s: float) -> str:
    """Run check_worker.py where TorchServe runs its workers; return how it ended, in words."""
    worker = Path(__file__).with_name("check_worker.py")
    environment = dict(os.environ)
    # TorchServe puts the archive's root on the import path of its worker.
    given = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(model), given] if given else [str(model)])
    environment.pop("LOCAL_RANK", None)  # a rank other than 0 gives no answer
    command = [sys.executable, "-c", _RUN, str(worker), str(model), str(sample), str(outcome)]
    # The log is a file, not a pipe: a process that the handler leaves behind would keep it open.
    with log.open("wb") as out:
        try:
            ended = subprocess.run(  # noqa: S603 - this very Python, with paths of ours
                command,
                cwd=model,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"was stopped after {timeout_s:g} s"
    return f"ended with status {ended.returncode}"


def _readable(body: bytes) -> str:
    """JSON on several lines, text as it is, anything else by its size."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(body)} bytes"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        readable = all(char.isprintable() or char.isspace() for char in text)
        return text if readable else f"{len(body)} bytes"
