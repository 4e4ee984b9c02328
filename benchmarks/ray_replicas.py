"""How throughput grows with replicas on Ray Serve, where a stage waits for a device of its own.

python -m benchmarks.ray_replicas takes three minutes. Inference sleeps, as it would wait for an
accelerator, so that two cores are enough for four replicas.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from harness.archives import pack
from harness.command import describe, end_on_sigterm
from harness.load import Served, load_of
from harness.ray_serve import RayServe

__all__ = ["main"]

REPLICAS = (1, 2, 4)
ROWS = 8
CALL_MS = 80
CLIENTS_OF_EACH = 32
ROUNDS = 3
WARM_UP_S = 5

HANDLER = f"""
import time

from micro_batch_handler import MicroBatchHandler


class Waits(MicroBatchHandler):
    thread_safe = True

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        time.sleep({CALL_MS} / 1000)
        return batch

    def postprocess(self, outputs):
        return outputs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the status is 0."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        handler = Path(folder, "waits.py")
        handler.write_text(HANDLER, encoding="utf-8")
        sizes = {"preprocess": ROWS, "inference": ROWS, "postprocess": ROWS}
        settings = {
            "batchSize": ROWS,
            "maxBatchDelay": 5,
            "deviceType": "cpu",
            "micro_batching": {"micro_batch_size": sizes, "parallelism": 1},
        }
        archive = pack("waits", handler, settings, Path(folder))
        for replicas in REPLICAS:
            clients = CLIENTS_OF_EACH * replicas
            with (
                RayServe([archive], "--replicas", str(replicas), "--cpus", "6", "--quiet") as ray,
                load_of([b"a request"], "text/plain", clients) as load,
            ):
                served = Served(ray, "waits", load)
                served.press(WARM_UP_S)
                samples = [served.press(options.seconds) for _ in range(ROUNDS)]
            rates[replicas] = median(sample.rate for sample in samples)
            linear = rates[replicas] / (replicas * rates[REPLICAS[0]])
            limit = 1000 * replicas * ROWS / CALL_MS
            told = f"{rates[replicas]:.0f}/s, {linear:.2f} of linear, {limit:.0f}/s at most"
            sys.stdout.write(f"{replicas} replicas: {told}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{json.dumps(describe())}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_replicas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=8, help="of each of three samples")
    return parser


if __name__ == "__main__":
    sys.exit(main())
