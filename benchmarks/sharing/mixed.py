"""Requests whose inference raises, hangs, lacks memory or loses the device, among good ones."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.sharing.part import HOSTED, Found, say, shared, table
from harness.crowd import crowd
from harness.rest import RestClient
from harness.torchserve import TorchServe

__all__ = ["mixed"]

MEMBERS = 4
STAGE_TIMEOUT_S = 2.0

EXPECTED = {
    "good": (200, ""),
    "poison": (500, "inference failed"),
    "memory": (507, "Out of resources"),
    "hang": (504, "inference: one call took longer"),
    "device": (507, "Out of resources"),
}
"""Status of each kind, and how the message of its body begins."""

SHARES = {"good": 0.97, "poison": 0.02, "memory": 0.01}
FATAL = ("hang", "device")
FATAL_EVERY_S = 20.0
"""Between two requests that cost a host: one of them costs up to three, each of which loads."""


class MixedLoad:
    """Which request each client sends next, and what became of all.

    Args:
        model: its name.
        seed: of all chance.
    """

    def __init__(self, model: str, seed: int) -> None:
        self._model = model
        self._random = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()
        self._number = 0
        self._fatal = 0
        self._next_fatal_s = time.monotonic() + FATAL_EVERY_S / 2
        self.found: Counter[tuple[str, bool]] = Counter()
        self.wrong: Counter[str] = Counter()
        self.longest_s = 0.0

    def turn(self, client: RestClient, _number: int, _turn: int) -> None:
        """Send a request and judge the answer."""
        number, kind = self._next()
        began_s = time.monotonic()
        answer = client.predict(self._model, json={"number": number, "kind": kind}, timeout=130)
        body = answer.json()
        right = answer.status_code == EXPECTED[kind][0]
        if kind == "good":
            right = right and body == {"number": number}
        else:
            right = right and str(body.get("message")).startswith(EXPECTED[kind][1])
        with self._lock:
            self.found[kind, right] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            if not right:
                self.wrong[f"{kind}: {answer.status_code} {answer.text[:200]}"] += 1

    def _next(self) -> tuple[int, str]:
        with self._lock:
            self._number += 1
            if time.monotonic() >= self._next_fatal_s:
                self._next_fatal_s += FATAL_EVERY_S
                self._fatal += 1
                return self._number, FATAL[self._fatal % len(FATAL)]
            kinds = list(SHARES)
            return self._number, self._random.choices(kinds, list(SHARES.values()))[0]


def mixed(seconds: float, clients: int, seed: int, hosted: Sequence[str]) -> Found:
    """So many clients for so long, with these stages in the process with the model."""
    settings = shared(
        MEMBERS,
        16,
        hosted_stages=list(hosted),
        stage_timeout=STAGE_TIMEOUT_S,
        micro_batch_size={"preprocess": 4, "inference": 8, "postprocess": 8},
    )
    with (
        TorchServe() as server,
        server.model(HOSTED / "mixed.py", settings, initial_workers=MEMBERS) as model,
    ):
        workers = sorted(model.worker_pids())
        load, over = MixedLoad(model.name, seed), threading.Event()

        def progress() -> None:
            while not over.wait(10):
                say(f"mixed: {sum(load.found.values()):,} requests, {load.wrong.total()} wrong")

        threading.Thread(target=progress, daemon=True).start()
        crowd(server, clients, load.turn, seconds=seconds)
        over.set()
        hosts = server.log().count("started process")
        replaced = sorted(model.worker_pids()) != workers
    rows: list[tuple[Any, ...]] = []
    for kind, (status, _) in EXPECTED.items():
        right, failed = load.found[kind, True], load.found[kind, False]
        rows.append((kind, right + failed, status, right, failed))
    text = table(("request", "sent", "due", "so answered", "otherwise"), rows)
    text += f"\n\n{hosts - 1} restarts of the process with the model; the longest request took "
    text += f"{load.longest_s:.1f} s."
    wrong = [f"{number} x {what}" for what, number in load.wrong.most_common()]
    if replaced:
        wrong.append("a worker was replaced")
    return Found("mixed", text, {"found": {str(k): v for k, v in load.found.items()}}, wrong)
