"""The check in its own process: load the model, ask it in several ways, report, end.

alone      each request in a batch of its own: what its answer should be
again      the same once more: answers that differ now are compared by their status only
whole      one batch, uncut, as BaseHandler would call it
cut        the same batch in micro-batches, in lanes, in each way of ways.py
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.checking.alone import Alone, CheckError, Model, header_names
from micro_batch_handler.tools.checking.answers import cause, readable
from micro_batch_handler.tools.checking.batches import Batches
from micro_batch_handler.tools.checking.ways import settings_of
from micro_batch_handler.tools.checking.worker import DECODES, FRONTEND, MANIFEST, WorkerLog, load

__all__ = ["main", "report_lines"]

_ASKING_SHARE = 0.2
"""The share of the process's time that asking may take; the rest is for loading."""

_LATEST_SHARE = 0.8
"""The share of the process's time after which nothing more is asked: a call may take long."""

_SIZES = "in micro-batches of"

CANNOT_LOAD = "TorchServe cannot load it"


def main() -> None:
    """Check a model as the process's arguments say, and end the process.

    The arguments are the model's folder, the samples, a folder for the outcome, and the seconds
    that the process has. The outcome is `report.json`, with the reason of a failure or the lines to
    print, and `doing`, which names the requests that are asked, in case the process is stopped.
    """
    folder, *samples, outcome, seconds = sys.argv[1:]
    os.environ[FRONTEND] = str(os.getpid())
    latest_s = time.monotonic() + _LATEST_SHARE * float(seconds)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    log = WorkerLog()
    logging.getLogger().addHandler(log)
    report: dict[str, object] = {"failure": "", "lines": []}
    doing = CANNOT_LOAD

    def tell(what: str) -> None:
        nonlocal doing
        doing = f"TorchServe cannot answer {what}"
        Path(outcome, "doing").write_text(what, encoding="utf-8")

    try:
        service = load(Path(folder))
        doing = "TorchServe cannot answer it"
        if "micro_batch_handler.torchserve.wire.decode" in sys.modules:
            # As config.properties has it for handlers that decode bodies in their lanes.
            os.environ.setdefault(DECODES, "false")
        until_s = min(time.monotonic() + _ASKING_SHARE * float(seconds), latest_s)
        headers = header_names(Path(folder))
        alone = Alone(Model(service, [*map(Path, samples)], headers, log, until_s))
        batches = Batches(alone, settings_of(service), tell)
        batches.run()
        report["lines"] = report_lines(alone, batches)
    except CheckError as error:
        report["failure"] = str(error)
    except BaseException as error:  # SystemExit too: the worker would be gone
        logging.getLogger(__name__).exception(doing)
        side = _side_of(error) if doing == CANNOT_LOAD and _shares_model(Path(folder)) else ""
        report["failure"] = f"{doing}{side}: {cause(error)}"
    Path(outcome, "report.json").write_text(json.dumps(report), encoding="utf-8")
    sys.stdout.flush()
    # As TorchServe ends its workers: without waiting for threads that the handler started.
    os._exit(1 if report["failure"] else 0)


def _shares_model(folder: Path) -> bool:
    """Whether the model's settings ask for `share_model`."""
    import yaml  # the worker has loaded it already

    found: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    try:
        path = folder / found["model"]["configFile"]
        return bool(yaml.safe_load(path.read_bytes())["micro_batching"]["share_model"])
    except (LookupError, TypeError):
        return False


def _side_of(error: BaseException) -> str:
    """Which of the two processes of a shared model an error of loading comes from."""
    # The worker tells what went wrong in the other process, and has that as the cause.
    trace: BaseException | None = error
    while trace is not None and type(trace).__name__ != "HostTraceback":
        trace = trace.__cause__
    if trace is not None or "the process with the model" in str(error):
        return " in the process with the model (share_model)"
    return " in a worker, which has no model (share_model)"


def report_lines(alone: Alone, batches: Batches) -> list[str]:
    """The lines to print for a check that has not failed: an answer, the ways to ask, and notes.

    Args:
        alone: the requests, asked one by one.
        batches: the requests, asked all at once.
    """
    first = alone.answers[0]
    kind = f" {first.content_type}" if first.content_type else ""
    answer = [f"check: status {first.status}{kind}", readable(first.body)]
    notes = [f"check: note: {note}" for note in _notes(alone, batches)]
    return [*answer, *_sides(batches), _summary(alone.model, batches), *notes]


def _sides(batches: Batches) -> Iterator[str]:
    """A line on the two sides of a shared model."""
    if batches.settings is not None and batches.settings.shares_model:
        yield (
            "check: share_model: the process with the model and a worker without it were both "
            "loaded, and answered together"
        )


def _summary(model: Model, batches: Batches) -> str:
    number = len(model.samples)
    asked = f"{number} requests" if number > 1 else "1 request"
    if model.headers:
        asked += f", each with its own {', '.join(model.headers)},"
    if not batches.done:
        return f"check: {asked} alone"
    came = "all answered" if batches.differs else "the same answers"
    return f"check: {asked} {_listed(['alone', *batches.done])}: {came}"


def _notes(alone: Alone, batches: Batches) -> Iterator[str]:
    if alone.model.too_many:
        yield f"{len(alone.model.samples)} requests are the most, so the last samples were not sent"
    if alone.left_out:
        names = ", ".join(alone.left_out)
        yield f"{names} was not sent, since the handler refuses a text of the check's there"
    if batches.differs:
        also = ", also without micro-batching" if batches.settings else ""
        yield f"answers differ with the batch that they are in{also}: {batches.differs}"
    if batches.unknown:
        yield (
            f"no batches were asked, since the settings of the micro_batch_handler in the archive "
            f"cannot be changed: {batches.unknown}"
        )
    if alone.unsteady:
        yield (
            f"of {len(alone.unsteady)} requests only the status was compared, since their answers "
            f"are not the same each time"
        )
    more = [f"{alone.unasked} more requests"] if alone.unasked else []
    if more or batches.skipped:
        yield f"there was no time for {', '.join([*more, *batches.skipped])}"
    yield from alone.model.log.warnings


def _listed(ways: Sequence[str]) -> str:
    """Name several ways as one would say them.

    >>> _listed(["alone", "whole", "in micro-batches of 1", "in micro-batches of 2", "mixed"])
    'alone, whole, in micro-batches of 1 and of 2, and mixed'
    """
    parts: list[str] = []
    for way in ways:
        if way.startswith(_SIZES) and parts and parts[-1].startswith(_SIZES):
            parts[-1] += f" and of{way.removeprefix(_SIZES)}"
        else:
            parts.append(way)
    if len(parts) == 2:  # noqa: PLR2004 - two need no commas
        return " and ".join(parts)
    return ", ".join([*parts[:-1], f"and {parts[-1]}"])
