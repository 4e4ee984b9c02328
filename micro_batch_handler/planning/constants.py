"""The numbers that planning rests on, each with its reason."""

from __future__ import annotations

__all__ = [
    "CHANGED",
    "EARLY_BATCHES",
    "EARLY_SHARE",
    "ENOUGH_BATCHES",
    "FIRST_WAIT_BATCHES",
    "GAIN",
    "HAND_OVER_S",
    "LEARN_EVERY",
    "LOG_EVERY_S",
    "LOG_FROM_BATCH",
    "MOST_CALLS",
    "MOST_FAILED",
    "MOST_SEARCH_S",
    "MOST_WAIT_BATCHES",
    "NOTICEABLE",
    "POSTPONED_BATCHES",
    "RECENT_BATCHES",
    "SHARE",
    "SLOWER",
    "VERDICTS",
]

HAND_OVER_S = 70e-6
"""What a micro-batch costs in each stage beside the call, on a small virtual machine."""

SHARE = 0.01
"""Of all time, what candidates may lose; and as much again for learning and searching."""

EARLY_BATCHES = 12
EARLY_SHARE = 0.2
"""At the start candidates may lose more, and every batch is learned from at once."""

MOST_SEARCH_S = 0.05
"""What learning and searching may take at once, at the start too."""

LEARN_EVERY = 4
"""Batches between two rounds of learning, after the first few."""

NOTICEABLE = 0.08
"""Smaller changes of a cost are noise: the model and what it proposes stay."""

VERDICTS = {2: (0.0, 1.1), 4: (0.3, 1.0), 8: (0.7, 0.7)}
"""After so many turns of each plan, a candidate is dropped if it was faster in at most the first
share of all pairs, and comes into force if in at least the second.

Of equals one in fourteen comes into force by chance, which costs nothing."""

GAIN = 0.03
"""Splitting must gain more than this share of a whole batch."""

MOST_FAILED = 4
"""A candidate is dropped when more of its batches have not finished: some plans make calls fail."""

RECENT_BATCHES = 9
"""Batches of a plan that count, the latest."""

ENOUGH_BATCHES = 3
"""With fewer it is not known what a batch takes: one may have met a pause."""

SLOWER = 0.2
"""A split that would be slower by more than this share is not tried."""

FIRST_WAIT_BATCHES = 64
MOST_WAIT_BATCHES = 1024
"""How long a plan that has lost must wait: twice as long each time."""

POSTPONED_BATCHES = 8
"""Until candidates are looked for again, if there was none."""

CHANGED = 1.25
"""If batches take so many times as long as they did, the machine or the requests have changed."""

MOST_CALLS = 4096
"""Calls that are kept until the next round of learning."""

LOG_FROM_BATCH = 64
LOG_EVERY_S = 30.0
"""The log tells a new plan after the first few batches, and then not often."""
