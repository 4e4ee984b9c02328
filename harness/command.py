"""What the commands that measure share; needs only the standard library, and so does --help."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import micro_batch_handler

__all__ = ["about", "chosen", "describe", "end_on_sigterm"]

PACKAGES = ("torchserve", "torch", "numpy", "orjson", "pillow")


def end_on_sigterm() -> None:
    """Let SIGTERM end the process as Ctrl-C does, through every `with`, so that no server stays."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def chosen(
    options: argparse.Namespace, *, quick: Mapping[str, Any], full: Mapping[str, Any]
) -> dict[str, Any]:
    """The options, with the defaults of a quick or a full run for those that are not given."""
    usual = quick if options.quick else full
    given = {key: getattr(options, key) for key in usual}
    return {key: usual[key] if value is None else value for key, value in given.items()}


def about() -> dict[str, Any]:
    """The machine, the versions and the load generator, for the files of a run."""
    from harness.load import generator

    load = f"{os.getloadavg()[0]:.1f}"
    return {**describe(), "load": generator(), "load average before": load}


def describe() -> dict[str, str]:
    """Machine, versions, command and date."""
    return {
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "micro_batch_handler": micro_batch_handler.__version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _program() -> str:
    main = sys.modules["__main__"].__spec__
    name = main.name.removesuffix(".__main__") if main else Path(sys.argv[0]).name
    return f"python -m {name}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
