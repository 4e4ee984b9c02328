"""The next command to run after an advice, and what to set for it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from micro_batch_handler.config import SECTION
from micro_batch_handler.planning.cores import share_of, usable_cores
from micro_batch_handler.tools.advising.findings import Findings
from micro_batch_handler.tools.advising.rules import Advice, Verdict
from micro_batch_handler.tools.workbench.flags import files_of

__all__ = ["next_step"]

PROGRAM = "micro-batch-handler"

SHOWN = 4
"""Samples that a command is shown with."""

MORE = "…"
"""Stands for the others, and for flags that only the user knows."""


def next_step(findings: Findings, advice: Advice, flags: argparse.Namespace) -> str:
    """The next step, in one to three lines."""
    workers = advice.option.workers
    counted = f"minWorkers: {workers} and maxWorkers: {workers}"
    if advice.verdict == Verdict.USE:
        also = f"set {counted} in model-config.yaml"
        lines = [_adopt(findings, flags)]
        if findings.brought:
            lines.append(
                "or, in the handler, take micro_batch_handler.MicroBatchHandler in place of "
                "BaseHandler"
            )
        lines += [also] if workers != findings.options.now.workers else []
    elif advice.verdict == Verdict.SHARE:
        keys = f"{SECTION}: {{share_model: true}}, {counted}"
        lines = [f"set {keys} in model-config.yaml, then", _adopt(findings, flags)]
    elif advice.verdict == Verdict.WORKERS:
        url = f"http://127.0.0.1:8081/models/{findings.name}?min_worker={workers}"
        lines = [
            f'curl -X PUT "{url}" -H "Authorization: Bearer $MANAGEMENT_KEY"',
            f"or set {counted} in model-config.yaml",
            *_threads(findings, workers),
        ]
    elif advice.verdict == Verdict.DECODE:
        lines = [
            "decode in preprocess as examples/gpu_photos/handler.py does, then",
            _command("advise", flags, "--sample"),
        ]
    elif findings.clients < findings.batch_size:
        more = ["--clients", str(findings.batch_size)]
        lines = [f"if clients will fill a batch: {_command('advise', flags, '--sample', more)}"]
    else:
        lines = ["nothing" if findings.brought else _command("trace", flags, "--sample")]
    return "\n      ".join(lines)


def _threads(findings: Findings, workers: int) -> list[str]:
    """What to set so that PyTorch's threads in plain workers do not wait for one another."""
    share = share_of(usable_cores(), workers)
    if findings.memory.devices or workers == 1:
        return []
    return [f"and start TorchServe with OMP_NUM_THREADS={share}, or each worker takes all cores"]


def _adopt(findings: Findings, flags: argparse.Namespace) -> str:
    """The command that puts micro-batching in front, or tunes a handler that has it."""
    if not findings.brought:
        return _command("tune", flags, "--sample")
    if flags.source.suffix == ".mar" and flags.source.is_file():
        output = f"{flags.source.with_suffix('')}_micro_batched.mar"
        return _command("wrap", flags, "--check", ["--output", output])
    words = shlex.join(["--check", *_samples(flags)] if flags.sample else [])
    return f"pack it as before, with {PROGRAM} archive --micro-batch {MORE} {words}".rstrip()


def _command(name: str, flags: argparse.Namespace, flag: str, more: Sequence[str] = ()) -> str:
    """A command for the same source, with the same samples after this flag."""
    samples = [flag, *_samples(flags)] if flags.sample else []
    files = {f"--{key.replace('_', '-')}": value for key, value in vars(files_of(flags)).items()}
    given = [word for flag_of, value in files.items() if value for word in (flag_of, value)]
    words = shlex.join([PROGRAM, name, str(flags.source), *given, *more, *samples])
    return words.replace(f"'{MORE}'", MORE)


def _samples(flags: argparse.Namespace) -> list[str]:
    named = list(map(str, flags.sample))
    return [*named[:SHOWN], MORE] if len(named) > SHOWN else named
