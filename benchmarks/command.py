"""What the benchmarks' commands share; needs nothing installed, so that --help does not either."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Mapping
from typing import Any

__all__ = ["about", "chosen", "end_on_sigterm"]


def end_on_sigterm() -> None:
    """End as Ctrl-C does, by way of every `with`: servers must not stay behind."""
    signal.signal(signal.SIGTERM, _interrupt)


def chosen(
    options: argparse.Namespace, *, quick: Mapping[str, Any], full: Mapping[str, Any]
) -> dict[str, Any]:
    """What the options say, and for what they leave out, the usual of a quick or a full run."""
    usual = quick if options.quick else full
    given = {key: getattr(options, key) for key in usual}
    return {key: usual[key] if value is None else value for key, value in given.items()}


def about() -> dict[str, Any]:
    """The machine, the versions, and what makes the load; for the files of a run."""
    from benchmarks.machine import describe
    from benchmarks.throughput.load import generator

    load = f"{os.getloadavg()[0]:.1f}"
    return {**describe(), "load": generator(), "load average before": load}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
