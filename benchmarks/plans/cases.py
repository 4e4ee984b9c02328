"""Emulated stages with costs drawn at random, and the sizes worth measuring for them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.planning.constants import HAND_OVER_S
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.planning.sizes import even_sizes

__all__ = ["Case", "draw"]

BATCHES = (8, 16, 32, 64)
SHORTEST_S, LONGEST_S = 0.02, 0.2
"""What a whole batch takes."""

MOST_LANES = 4
LOCKED_EVERY = 5
"""One case in so many has stages that look parallel and are not: all their calls take one lock."""

CANDIDATES = 3


@dataclass(frozen=True)
class Case:
    """Three stages, each with the seconds of a call and of a row of it."""

    rows: int
    lanes: PerStage[int]
    fixed_s: Sequence[float]
    row_s: Sequence[float]
    locked: bool
    lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def cost_s(self, stage: int, rows: int) -> float:
        """What a call takes that nobody holds up."""
        return self.fixed_s[stage] + self.row_s[stage] * rows

    def functions(self, planner: Planner) -> dict[Stage, StageFunction]:
        """The stages for a pipeline; their calls are told to the planner."""
        return {
            stage: self._function(at, stage, planner.observe) for at, stage in enumerate(STAGES)
        }

    def best_plans(self) -> list[Plan]:
        """The few that finish first if all sizes are tried on the true costs."""
        forecast = Forecast(
            self.rows,
            [lambda rows, at=at: self.cost_s(at, rows) for at in range(len(STAGES))],  # type: ignore[misc]
            [self.lanes[stage] for stage in STAGES],
            HAND_OVER_S,
        )
        every = product(even_sizes(self.rows), repeat=len(STAGES))
        ranked = sorted(every, key=forecast.finish_s)
        return [Plan(*sizes) for sizes in ranked[:CANDIDATES]]

    def _function(
        self, at: int, stage: Stage, observe: Callable[[Stage, int, float], None]
    ) -> StageFunction:
        hold = self.lock if self.locked else nullcontext()

        def call(_tag: Any, call: Call, payload: Payload) -> tuple[Payload, Keep | None]:
            began_s = time.perf_counter()
            with hold:
                time.sleep(self.cost_s(at, len(call.micro_batch)))
            observe(stage, len(call.micro_batch), time.perf_counter() - began_s)
            return payload, None

        return call


def draw(seed: int, number: int) -> Case:
    """The case of this number."""
    chance = random.Random(f"{seed}-{number}")  # noqa: S311  (no secret)
    rows = chance.choice(BATCHES)
    fixed = [chance.choice([0.0, chance.random()]) for _ in STAGES]
    by_row = [chance.choice([0.0, chance.random()]) for _ in STAGES]
    shares = [chance.random() for _ in STAGES]
    parts = [
        (share * a / ((a + b) or 1), share * (b if a + b else 1) / ((a + b) or 1))
        for share, a, b in zip(shares, fixed, by_row, strict=True)
    ]
    scale = chance.uniform(SHORTEST_S, LONGEST_S) / sum(a + b for a, b in parts)
    outer = [chance.randint(1, MOST_LANES) for _ in range(2)]
    return Case(
        rows,
        PerStage(outer[0], 1, outer[1]),
        [scale * a for a, _ in parts],
        [scale * b / rows for _, b in parts],
        locked=number % LOCKED_EVERY == LOCKED_EVERY - 1,
    )
