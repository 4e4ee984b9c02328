"""The process with the model is killed again and again, under load."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

from benchmarks.sharing.part import Found, say, shared, table
from harness.image_load import ImageLoad, config
from harness.images import Kind
from harness.rest import RestClient
from harness.sharing import kill_host, one_host
from harness.torchserve import TorchServe
from harness.verdicts import Result

__all__ = ["kill"]

MEMBERS = 4
SIZES = {"preprocess": 1, "inference": 8, "postprocess": 8}
ANSWERS = 100
"""Right answers between two kills."""


class TimedLoad(ImageLoad):
    """Knows when each right answer to a good image came."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.right_s: list[float] = []
        """In seconds of the monotonic clock, in order."""

    def turn(self, client: RestClient, number: int, turn: int) -> Result:
        """Send one image, judge the answer and note the time."""
        result = super().turn(client, number, turn)
        if result.outcome == "right" and result.kind is Kind.GOOD:
            self.right_s.append(time.monotonic())
        return result


def kill(kills: int, clients: int, seconds: float) -> Found:
    """SIGKILL to the host so many times, evenly over these seconds if it is up again by then."""
    settings = config(hang_s=1, micro_batch_size=SIZES, response_timeout_s=60)
    settings |= {key: shared(MEMBERS, 32)[key] for key in ("minWorkers", "maxWorkers")}
    settings["micro_batching"]["share_model"] = True
    rows: list[tuple[float, float, float]] = []
    with TorchServe() as server, server.model("coded", settings, initial_workers=MEMBERS) as model:
        workers = sorted(model.worker_pids())
        load = TimedLoad(model.name)
        with load.running(server, clients):
            load.wait_for(ANSWERS)
            began_s = time.monotonic()
            for number in range(1, kills + 1):
                pause_s = began_s + (number - 1) * seconds / kills - time.monotonic()
                time.sleep(max(0.0, pause_s))
                load.wait_for(ANSWERS, timeout=120)
                answered = len(load.right_s) - 1
                kill_host(model)
                killed_s = time.monotonic()
                one_host(model)
                started_s = time.monotonic()
                load.wait_for(ANSWERS, timeout=120)
                # Answers that were on their way when the host was killed come before the gap.
                times_s = load.right_s[answered:]
                gap_s, first_s = max((b - a, b) for a, b in pairwise(times_s))
                rows.append((started_s - killed_s, first_s - started_s, gap_s))
                say(
                    f"kill {number} of {kills}: {rows[-1][2]:.1f} s, {len(load.results):,} requests"
                )
            load.wait_for(ANSWERS, timeout=120)
        took_s = time.monotonic() - began_s
        same = sorted(model.worker_pids()) == workers
    good = [each for each in load.results if each.kind is Kind.GOOD]
    failed = [each for each in good if each.outcome != "right"]
    bad = [each for each in load.results if each.kind is not Kind.GOOD]
    own = sum(each.outcome == "right" for each in bad)
    longest_s = max(gap for _, _, gap in rows)
    middle = [median(column) for column in zip(*rows, strict=True)]
    cells = [f"{each:.1f}" for each in middle]
    text = table(
        (
            "kills",
            "seconds",
            "good requests answered right",
            "good requests failed",
            "bad requests with their own status",
            "until the next process starts (s)",
            "until it has loaded and answers (s)",
            "without answers (s), median and longest",
        ),
        [
            (
                kills,
                f"{took_s:.0f}",
                f"{len(good) - len(failed):,}",
                len(failed),
                f"{own} of {len(bad)}",
                cells[0],
                cells[1],
                f"{cells[2]}, {longest_s:.1f}",
            )
        ],
    )
    wrong = [
        f"{each.status} {each.text[:200]}" for each in (*failed, *bad) if each.outcome != "right"
    ]
    if not same:
        wrong.append("a worker was replaced")
    return Found("kill", text, {"kills": rows, "good": len(good), "failed": len(failed)}, wrong)
