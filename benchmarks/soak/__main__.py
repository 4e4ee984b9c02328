"""python -m benchmarks.soak: thousands of batches with random faults, every answer checked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.soak.run import one_arena, soak
from benchmarks.soak.troubles import BAD_REQUEST
from harness.wire import Wrong

SLOPE_LIMIT_KB = 200.0
"""Growth per 1,000 batches that counts as a leak: 0.2 kB a batch, less than one lost answer."""

ENOUGH_BATCHES = 5_000
"""With fewer batches the slope shows the warm-up only, and no limit applies."""


def _bar(batches: int) -> Callable[[int], None]:
    """A line that fills, or tqdm's where it is installed."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        step = max(1, batches // 50)

        def show(done: int) -> None:
            if done % step == 0 or done == batches:
                bar = "#" * (50 * done // batches)
                end = "\n" if done == batches else ""
                sys.stderr.write(f"\r[{bar:<50}] {done:,} of {batches:,} batches{end}")
                sys.stderr.flush()

        return show
    bar = tqdm(total=batches, unit="batch")
    return lambda _: bar.update() and None


def main() -> int:
    """Run the soak and print its report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # With half as many, the warm-up of memory looks like a leak with some seeds.
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    arguments = parser.parse_args()
    say = sys.stdout.write
    one_arena()
    try:
        report = soak(arguments.batches, arguments.seed, progress=_bar(arguments.batches))
    except Wrong as error:
        say(f"\nFAILED: {error}\n")
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    slope = report.slope_kb_per_1000_batches
    failed = sum(count for code, count in report.outcomes.items() if int(code) >= BAD_REQUEST)
    say(f"{report.batches:,} batches, {report.requests:,} requests in {report.seconds} s\n")
    say(f"  {failed:,} failed as they must, {report.requests - failed:,} answered, all checked\n")
    say(f"  by status: {report.outcomes}\n")
    say(f"  {report.hangs} hangs, {report.log_records:,} log records\n")
    say(f"  threads {report.threads[0]} -> {report.threads[1]}\n")
    say(f"  open files {report.open_files[0]} -> {report.open_files[1]}\n")
    if slope is None:
        say("  too few batches to tell the slope of memory\n")
        return 0
    say(f"  memory {report.rss_kb[0]:,} -> {report.rss_kb[-1]:,} kB\n")
    say(f"  slope over the second half {slope:+.1f} kB per 1,000 batches\n")
    if slope > SLOPE_LIMIT_KB and report.batches >= ENOUGH_BATCHES:
        say(f"FAILED: memory grows by more than {SLOPE_LIMIT_KB:g} kB per 1,000 batches\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
