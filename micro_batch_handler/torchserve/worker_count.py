"""How many workers TorchServe has started for the model of this one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from micro_batch_handler.config.rules import is_whole

__all__ = ["worker_count"]

WORKER = "model_service_worker.py"
"""The program of TorchServe's workers, in the package `ts`."""


def worker_count(model_yaml: Mapping[str, Any] | None) -> int:
    """The workers of this process's model and version, this one included; at least 1.

    That is `minWorkers` of model-config.yaml, or the workers that run beside this one if they are
    more. Without `minWorkers`, TorchServe starts as many as config.properties or the registering
    request says, and else one for each GPU or each core. It starts them at the same moment, and
    this is asked when the handler has loaded its model, so they are all there.
    """
    given: Any = (model_yaml or {}).get("minWorkers")
    return max(_running(), given if is_whole(given, least=1) else 1)


def _running() -> int:
    """The workers that the same frontend runs in the same folder, which is of one archive."""
    if not _is_worker(sys.argv[:1]):
        return 1
    try:
        me = psutil.Process()
        parent = me.parent()
        folder = me.cwd()
        beside = [] if parent is None else [each for each in parent.children() if each != me]
    except (psutil.Error, OSError):
        return 1
    return 1 + sum(_runs_in(folder, each) for each in beside)


def _runs_in(folder: str, process: psutil.Process) -> bool:
    try:
        return _is_worker(process.cmdline()) and bool(process.cwd() == folder)
    except (psutil.Error, OSError):  # it has just ended
        return False


def _is_worker(command: Sequence[str]) -> bool:
    return any(Path(word).name == WORKER for word in command)
