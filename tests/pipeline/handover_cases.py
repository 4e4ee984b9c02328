"""Small cases, of which every order of events is tried: `python -m tests.pipeline.handover_cases`.

With `large` behind it, the command also runs those that take longer than a test may.
"""

from __future__ import annotations

import sys
from itertools import product

from tests.pipeline.device_model import Device, DeviceCase
from tests.pipeline.explore import Model, explore
from tests.pipeline.handover_model import Case, Handover

__all__ = ["CASES", "DEVICE_CASES", "LARGE", "ONE"]

ONE = (1, 1, 1)
USUAL = (2, 1, 2)


def either(rows: int, most: int = 1) -> set[tuple[int, ...]]:
    """Outcomes by which at most so many requests have failed: 1 is answered, 2 is failed."""
    return {found for found in product((1, 2), repeat=rows) if found.count(2) <= most}


EVERY = either(3, 3)
IN_ORDER = EVERY - {(2, 2, 1)}
"""With one lane each, the last row overtakes no two others."""

PAIRS = {(1,) * 6, (2, 2, 1, 1, 1, 1), (1, 1, 2, 2, 1, 1), (1, 1, 1, 1, 2, 2)}
"""Where one call of two hangs, those two fail."""


CASES: dict[str, tuple[Case, set[tuple[int, ...]]]] = {
    "no faults": (Case(), {(1, 1, 1)}),
    "no faults, one lane each": (Case(lanes=ONE), {(1, 1, 1)}),
    "no faults, inboxes of 1": (Case(capacity=1), {(1, 1, 1)}),
    "no faults, all inboxes of 1": (Case(capacity=1, first_capacity=1), {(1, 1, 1)}),
    "a call fails": (Case(faults=1), {(1, 1, 1)}),
    "a call fails, inboxes of 1": (Case(faults=1, capacity=1, lanes=ONE), {(1, 1, 1)}),
    "two calls fail": (Case(faults=2, lanes=ONE), either(3)),
    "a bad row in preprocess": (Case(bad=frozenset({(0, 1)})), {(1, 2, 1)}),
    "a bad row in inference": (Case(bad=frozenset({(1, 1)})), {(1, 2, 1)}),
    "a bad row in postprocess": (Case(bad=frozenset({(2, 1)})), {(1, 2, 1)}),
    "micro-batches of 2, a bad row": (
        Case(rows=6, sizes=(2, 2, 2), bad=frozenset({(1, 2)})),
        {(1, 1, 2, 1, 1, 1)},
    ),
    "micro-batches of 2, a bad row, a call fails": (
        Case(rows=6, sizes=(2, 2, 2), bad=frozenset({(1, 2)}), faults=1, lanes=ONE),
        {(1, 1, 2, 1, 1, 1)},
    ),
    "2, 3 and 1 rows, a call fails": (Case(rows=4, sizes=(2, 3, 1), faults=1), {(1, 1, 1, 1)}),
    "1, 3 and 1 rows, two calls fail": (Case(sizes=(1, 3, 1), faults=2), either(3)),
    "2, 3 and 2 rows, a bad row": (
        Case(rows=6, sizes=(2, 3, 2), bad=frozenset({(2, 3)})),
        {(1, 1, 1, 2, 1, 1)},
    ),
    "1, 1 and 3 rows, a bad row": (
        Case(sizes=(1, 1, 3), bad=frozenset({(0, 1)})),
        {(1, 2, 1)},
    ),
    "a call hangs": (Case(hangs=1), either(3)),
    "a call hangs, one fails, inboxes of 1": (
        Case(hangs=1, faults=1, capacity=1, lanes=ONE),
        either(3),
    ),
    "three calls hang, inboxes of 1": (
        Case(hangs=3, most_lost=4, capacity=1, lanes=ONE),
        EVERY,
    ),
    "micro-batches of 2, a call hangs": (
        Case(rows=6, sizes=(2, 2, 2), hangs=1, lanes=ONE),
        PAIRS,
    ),
    "4 rows by 2, a call hangs, one fails": (
        Case(rows=4, sizes=(2, 2, 2), hangs=1, faults=1, lanes=ONE),
        either(4) | {(2, 2, 1, 1), (1, 1, 2, 2)},
    ),
    "deadlines pass": (Case(expires=frozenset({0, 1, 2}), lanes=USUAL), EVERY),
    "a deadline passes, a call hangs": (
        Case(rows=4, sizes=(2, 3, 3), expires=frozenset({2}), hangs=1, lanes=USUAL),
        {(1, 1, *rest) for rest in product((1, 2), repeat=2)} | {(2, 2, 1, 1), (2, 2, 2, 1)},
    ),
    "the device is lost, a call hangs": (Case(loses_device=True, hangs=1, lanes=ONE), IN_ORDER),
    "the last lane that may is lost": (Case(hangs=1, most_lost=1, lanes=ONE), IN_ORDER),
    "on_error: fail_batch, a call hangs": (
        Case(isolate=False, faults=1, hangs=1, lanes=ONE),
        IN_ORDER,
    ),
}
"""Each with the outcomes that its requests may end with."""

LARGE: dict[str, Case] = {
    "two calls fail, two lanes each": Case(faults=2),
    "two calls fail, inboxes of 1": Case(faults=2, capacity=1),
    "a call hangs, one fails, two lanes each": Case(hangs=1, faults=1),
    "two calls hang, two lanes each": Case(hangs=2),
    "4 micro-batches, a call fails": Case(rows=4, faults=1),
    "4 micro-batches, a call hangs": Case(rows=4, hangs=1, capacity=1),
    "6 rows by 2, a call hangs, one fails": Case(
        rows=6, sizes=(2, 2, 2), hangs=1, faults=1, lanes=USUAL
    ),
    "2, 3 and 1 rows, deadlines, a call hangs, one fails": Case(
        rows=4, sizes=(2, 3, 1), expires=frozenset({1, 2}), hangs=1, faults=1
    ),
    "the device is lost, a call hangs, two lanes each": Case(loses_device=True, hangs=1),
    "fail_batch, a call hangs, two lanes each": Case(isolate=False, faults=1, hangs=1),
    "the last lane that may is lost, two lanes each": Case(hangs=1, most_lost=1),
}

SINGLE = ((0,), (1,), (2,))
MIXED = (SINGLE, ((0, 1), (2,)), ((0,), (1, 2)))
JOINED = (SINGLE, ((0, 1, 2),), SINGLE)

DEVICE_CASES = {
    "three chains": DeviceCase(),
    "two chains, two streams of inference": DeviceCase(groups=(((0,), (1,)),) * 3, lanes=(1, 2, 1)),
    "joined": DeviceCase(groups=JOINED, lanes=(2, 1, 1)),
    "cut and joined": DeviceCase(groups=MIXED, lanes=(2, 2, 1)),
    "cut and joined, a call fails": DeviceCase(groups=MIXED, lanes=(2, 1, 1), fails=1),
    "cut and joined, one copy stream": DeviceCase(groups=MIXED, one_copy_stream=True),
}

DEVICE_LARGE = {
    "two chains, two lanes each": DeviceCase(groups=(((0,), (1,)),) * 3, lanes=(2, 2, 2)),
    "three chains, two streams of inference": DeviceCase(lanes=(1, 2, 1)),
    "three chains, two lanes each but for inference": DeviceCase(lanes=(2, 1, 2)),
    "three chains, a call fails": DeviceCase(lanes=(1, 2, 1), fails=1),
    "three chains, one copy stream": DeviceCase(one_copy_stream=True),
}


def main(large: bool) -> None:
    """Explore all cases, and say how large they are."""
    models: list[tuple[str, Model]] = [
        *((name, Handover(case)) for name, (case, _) in CASES.items()),
        *((name, Handover(case)) for name, case in LARGE.items() if large),
        *((name, Device(case)) for name, case in DEVICE_CASES.items()),
        *((name, Device(case)) for name, case in DEVICE_LARGE.items() if large),
    ]
    for name, model in models:
        sys.stdout.write(f"{type(model).__name__}: {name}: {explore(model)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main("large" in sys.argv)
