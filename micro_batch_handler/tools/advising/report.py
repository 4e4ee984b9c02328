"""The advice in a few lines for a terminal, or as JSON."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any

from micro_batch_handler.config import STAGES
from micro_batch_handler.tools.advising.findings import Findings
from micro_batch_handler.tools.advising.next_step import next_step
from micro_batch_handler.tools.advising.options import Option
from micro_batch_handler.tools.advising.rules import Advice, Verdict
from micro_batch_handler.tools.tuning.report import columns
from micro_batch_handler.tools.tuning.units import mib, ms

__all__ = ["as_json", "as_text"]

WIDTH = 100

TITLES = {
    Verdict.USE: "Use it as it is, with one changed line",
    Verdict.SHARE: "Use it with share_model: one copy of the model for all workers",
    Verdict.WORKERS: "Start more plain workers; you do not need this package for that",
    Verdict.DECODE: "Decode on the GPU first",
    Verdict.NOTHING: "Nothing to gain: keep what you have",
}


def as_text(findings: Findings, advice: Advice, flags: argparse.Namespace) -> str:
    """All of it, for a terminal."""
    expected = f": {advice.gain:.2f} times the requests per second are expected (forecast)."
    if advice.verdict == Verdict.DECODE:
        expected = f": up to {advice.gain:.1f} times the requests per second (a bound)."
    title = TITLES[advice.verdict]
    measured = (_stages(findings), _memory(findings), _clients(findings))
    parts = [
        _wrapped(title + ("." if advice.verdict == Verdict.NOTHING else expected)),
        "\n".join(map(_wrapped, measured)),
        _table(findings),
        _wrapped(f"Why: {_why(findings, advice)}."),
        f"Next: {next_step(findings, advice, flags)}",  # commands to be copied stay as they are
    ]
    return "\n\n".join([*parts, *(_wrapped(f"Note: {note}.") for note in findings.notes)])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def as_json(findings: Findings, advice: Advice, flags: argparse.Namespace) -> dict[str, Any]:
    """The same as one mapping."""
    memory = findings.memory
    return {
        "advice": advice.verdict.value,
        "gain": round(advice.gain, 3),
        "workers": advice.option.workers,
        "why": _why(findings, advice),
        "next": next_step(findings, advice, flags),
        "clients": findings.clients,
        "batch_size": findings.batch_size,
        "requests_of_a_batch": findings.rows,
        "stages_ms": {
            stage: _rounded_ms(seconds)
            for stage, seconds in zip(STAGES, findings.stages_s, strict=True)
        },
        "torchserve_alone_more_ms": _rounded_ms(findings.around_s),
        "model_bytes": memory.model_bytes,
        "worker_bytes": memory.worker_bytes,
        "machine_bytes": memory.machine_bytes,
        "worker_gpu_bytes": memory.on_device_bytes,
        "gpu_bytes": memory.device_bytes,
        "most_workers_that_fit": memory.most_copies,
        "options": {
            name: {
                "requests_per_s": round(option.rate, 1),
                "gain": round(option.rate / findings.options.now.rate, 3),
                "workers": option.workers,
                "memory_bytes": option.memory_bytes,
            }
            for name, option in _options(findings).items()
        },
        "notes": list(findings.notes),
    }


def _options(findings: Findings) -> Mapping[str, Option]:
    """What is shown, by what it is."""
    options = findings.options
    shown = {
        "TorchServe alone, as it is": options.now,
        "this package, one changed line": options.changed,
        "TorchServe alone, more workers": options.workers,
        "this package, more workers": options.both,
        "this package, share_model": options.shared,
        "decoded on the GPU (a bound)": options.decoded,
    }
    if options.workers.workers == options.now.workers:
        del shown["TorchServe alone, more workers"], shown["this package, more workers"]
    return {name: option for name, option in shown.items() if option is not None}


def _table(findings: Findings) -> str:
    head = ["forecast", "workers", "requests/s", "to now", "memory"]
    rows = [
        [
            name,
            str(option.workers),
            f"{option.rate:,.0f}",
            f"{option.rate / findings.options.now.rate:.2f}",
            mib(option.memory_bytes),
        ]
        for name, option in _options(findings).items()
    ]
    return columns((head, rows))


def _stages(findings: Findings) -> str:
    told = [f"{stage} {ms(s)}" for stage, s in zip(STAGES, findings.stages_s, strict=True)]
    around_s = max(0.0, findings.around_s)
    return (
        f"A batch of {findings.rows} takes {ms(sum(findings.stages_s) + around_s)} on "
        f"TorchServe alone: {', '.join(told)}, and {ms(around_s)} around them that this "
        f"package saves."
    )


def _memory(findings: Findings) -> str:
    memory = findings.memory
    model = f"The model has {mib(memory.model_bytes)} of weights, a" if memory.model_bytes else "A"
    told = f"{model} worker takes {mib(memory.worker_bytes)} of {mib(memory.machine_bytes)}"
    if memory.on_device_bytes:
        told += f", and {mib(memory.on_device_bytes)} of a GPU's {mib(memory.device_bytes)}"
    count = memory.most_copies
    return f"{told}: {count} worker{'s' if count > 1 else ''} with a model each would fit."


def _clients(findings: Findings) -> str:
    return f"{findings.clients} clients are taken to send at the same time (--clients)."


def _why(findings: Findings, advice: Advice) -> str:
    options, workers = findings.options, advice.option.workers
    if advice.verdict == Verdict.USE:
        return _why_use(findings, workers)
    if advice.verdict == Verdict.SHARE:
        wanted = options.crowded.workers if options.crowded else workers
        return (
            f"{wanted} workers would pay, and {findings.memory.most_copies} with a model each fit "
            f"into the memory"
        )
    if advice.verdict == Verdict.WORKERS:
        return (
            f"{workers} workers fit into the memory. One changed line gives "
            f"{_to_now(findings, options.changed)}, and in {workers} workers "
            f"{_to_now(findings, options.both)}"
        )
    if advice.verdict == Verdict.DECODE:
        return "all samples are JPEGs, and with all cores decoding the GPU would still wait"
    if options.frontend_bound:
        return (
            "the handler needs less time than TorchServe's frontend between two batches, which "
            "no advice changes"
        )
    best = max(options.changed, options.workers, options.both, key=lambda each: each.rate)
    return f"the best that fits is {_to_now(findings, best)}, less than such forecasts are off"


def _why_use(findings: Findings, workers: int) -> str:
    options = findings.options
    gains = (
        "JSON and what else is around the stages costs more than any stage, and less here"
        if findings.around_s > max(findings.stages_s)
        else "the stages of a batch overlap"
    )
    plain = options.workers.workers
    others = f"{plain} plain workers give {_to_now(findings, options.workers)}"
    if workers != options.now.workers:
        return f"{gains}. {others}"
    more = plain != options.now.workers
    return f"{gains}, and it takes no more memory{f'. {others}' if more else ''}"


def _to_now(findings: Findings, option: Option) -> str:
    return f"{option.rate / findings.options.now.rate:.2f} times"


def _rounded_ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
