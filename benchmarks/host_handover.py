"""What it costs to hand rows to the model host and back, beside one copy of the same bytes.

    python -m benchmarks.host_handover

A host in a process of its own answers each question with one number a row. In the same rounds the
same bytes are copied once, into memory that is in use already.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

import numpy as np
import torch

from harness.command import describe
from harness.handlers.means import Means
from harness.service import FakeMetrics, service_of
from micro_batch_handler.hosting.client import HostClient, Rows
from micro_batch_handler.torchserve.sharing import member_of

ROW = (3, 224, 224)


def main() -> int:
    """Measure, print a table; gives back 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_handover", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--rounds", type=int, default=300, metavar="N")
    options = parser.parse_args()
    sys.stdout.write(f"{describe()}\n\n")
    sys.stdout.write(
        "| rows | bytes | one copy | there and back | copies | 1.5 copies + 150 us |\n"
    )
    sys.stdout.write("\n|---|---|---|---|---|---|\n")
    handler = Means()
    settings = {"micro_batching": {"share_model": True, "device": {"pinned_bytes": 2**27}}}
    service = service_of(handler, settings, FakeMetrics())
    member = member_of(handler, service.context)
    for rows in options.rows:
        sys.stdout.write(_measured(member.client, rows, options.rounds))
    handler.close()
    return 0


def _measured(client: HostClient, rows: int, rounds: int) -> str:
    """A line of the table."""
    payload = torch.rand(rows, *ROW)
    asked = Rows(payload, rows, None, True, rows, [(None, {})] * rows)
    source = payload.numpy().reshape(-1).view(np.uint8)
    target = np.ones_like(source)
    copies_us, asks_us = _in_turns(
        [lambda: np.copyto(target, source), lambda: client.ask("inference", asked, None)], rounds
    )
    copy_us, ask_us = median(copies_us), median(asks_us)
    bar = "yes" if ask_us <= 1.5 * copy_us + 150 else "no"
    low, *_, high = quantiles(asks_us, n=10)
    return (
        f"| {rows} | {source.nbytes:,} | {copy_us:.0f} us | {ask_us:.0f} us ({low:.0f} to "
        f"{high:.0f}) | {ask_us / copy_us:.2f} | {1.5 * copy_us + 150:.0f} us: {bar} |\n"
    )


def _in_turns(ways: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Microseconds of each way in each round; the first tenth of the rounds warms up."""
    took: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + rounds // 10):
        for each, way in zip(took, ways, strict=True):
            began = time.perf_counter()
            way()
            each.append((time.perf_counter() - began) * 1e6)
    return [each[rounds // 10 :] for each in took]


if __name__ == "__main__":
    sys.exit(main())
