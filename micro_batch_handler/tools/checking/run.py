"""The check of a model in a process of its own: load it, ask it in several ways, report, end.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from micro_batch_handler.tools.checking.alone import Alone, Asked, NoAnswerError
from micro_batch_handler.tools.checking.batches import Batches, CutError
from micro_batch_handler.tools.checking.report import report_lines
from micro_batch_handler.tools.checking.requests import Requests
from micro_batch_handler.tools.checking.ways import settings_of
from micro_batch_handler.tools.checking.worker import DECODES, LoggedErrors, PackageLog, cause, load

__all__ = ["main"]

_SHARE = 0.2
"""Of the seconds that the process has, what asking may take; the rest is for loading."""

_LATEST = 0.8
"""Of the seconds that the process has, when nothing more is asked: a call may take long."""


def main(model: Path, samples: Sequence[Path], outcome: Path, seconds: float) -> None:
    """Write `report.json`, and `answer` if there is one, into the folder `outcome`.

    `doing` there says what is asked in a batch, for whoever finds that the process was stopped.
    """
    latest_s = time.monotonic() + _LATEST * seconds
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    errors, log = LoggedErrors(), PackageLog()
    logging.getLogger().addHandler(errors)
    logging.getLogger().addHandler(log)
    report: dict[str, object] = {"failure": "", "status": 0, "content_type": "", "lines": []}
    doing = "TorchServe cannot load it"

    def tell(what: str) -> None:
        nonlocal doing
        doing = f"TorchServe cannot answer {what}"
        (outcome / "doing").write_text(what, encoding="utf-8")

    try:
        service = load(model)
        doing = "TorchServe cannot answer it"
        if "micro_batch_handler.torchserve.wire.decode" in sys.modules:
            # As config.properties has it for handlers that decode bodies in their lanes.
            os.environ.setdefault(DECODES, "false")
        until_s = min(time.monotonic() + _SHARE * seconds, latest_s)
        asked = Asked(service, Requests.of(model, samples), errors, until_s)
        report.update(_answered(asked, log, tell, outcome / "answer"))
    except (NoAnswerError, CutError) as error:
        report["failure"] = str(error)
    except BaseException as error:  # SystemExit too: the worker would be gone
        logging.getLogger(__name__).exception(doing)
        report["failure"] = f"{doing}: {cause(error)}"
    (outcome / "report.json").write_text(json.dumps(report), encoding="utf-8")
    sys.stdout.flush()
    # As TorchServe ends its workers: without waiting for threads that the handler started.
    os._exit(1 if report["failure"] else 0)


def _answered(
    asked: Asked, log: PackageLog, tell: Callable[[str], object], answer: Path
) -> Mapping[str, object]:
    """What to report of a model that answers everything as it should."""
    alone = Alone(asked)
    first = alone.replies[0].answer
    answer.write_bytes(first.body)
    batches = Batches(asked, alone, settings_of(asked.service), log, tell)
    batches.run()
    lines = report_lines(alone, batches, log.texts)
    return {"status": first.status, "content_type": first.content_type, "lines": lines}
