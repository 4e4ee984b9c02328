"""The numbers that planning rests on, each with its reason."""

from __future__ import annotations

__all__ = [
    "CHANGED",
    "EARLY_BATCHES",
    "EARLY_SHARE",
    "ENOUGH_BATCHES",
    "ENOUGH_CALLS",
    "FADES",
    "FINER",
    "FIRST_WAIT_BATCHES",
    "FORGOTTEN",
    "GAIN",
    "HAND_OVER_S",
    "LEARN_EVERY",
    "LOG_EVERY_S",
    "LOG_FROM_BATCH",
    "MATERIAL",
    "MOST_CALLS",
    "MOST_FAILED",
    "MOST_LANES",
    "MOST_MICRO_BATCHES",
    "MOST_PER_CORE",
    "MOST_SEARCH_S",
    "MOST_WAIT_BATCHES",
    "NOTICEABLE",
    "OUTLIER",
    "POSTPONED_BATCHES",
    "REACH",
    "RECENT_BATCHES",
    "REMEMBERED",
    "SHARE",
    "SLOWER",
    "SPREAD",
    "STARTS",
    "VERDICTS",
    "WORK_COUNTS",
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

WORK_COUNTS = 0.01
"""How much a second of work weighs against a second of waiting: of plans that finish at about the
same time, the one with the fewest and largest calls leaves the machine most for others."""

STARTS = 3
"""Where the search starts from: the best few of those plans that cut some stages, all alike."""

FINER = (2, 3)
"""All sizes found are also tried cut into so many: where several lanes wait for one another, no
stage alone gains by smaller micro-batches."""

REACH = 2
"""How many sizes away two are changed at once, where changing one alone would not help."""

MOST_MICRO_BATCHES = 64
"""Micro-batches that a stage may be cut into; more only cost."""

MATERIAL = 1.5
"""Sizes that differ by less are alike."""

SPREAD = 1.25
"""The largest size must be so many times the smallest for the two to tell what a row adds."""

OUTLIER = 0.1
"""A size that lies so far off the line (relatively) counts half, unless most do."""

MOST_LANES = 4
"""Lanes that `auto` gives preprocess and postprocess. More would mostly wait for one another: for
the interpreter, and for the single lane of inference between them."""

MOST_PER_CORE = 4
"""Lanes of a stage for each core, whatever is asked for: settings may come from a larger machine.
Enough for stages that wait half of their time; lanes that compute gain nothing beyond one."""

REMEMBERED = 15
"""Calls of one size that count, the latest. Their median is not moved by a pause in one of them."""

FADES = 0.98
"""What is left of a size's weight after each round of learning in which it was not seen."""

FORGOTTEN = 0.01
"""A size with less weight than this is dropped, and may have to be explored again."""

ENOUGH_CALLS = 3
"""With fewer calls of a size it is not known how much they vary."""
