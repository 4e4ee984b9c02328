"""The numbers that planning rests on, each with its reason.

Where no other reason stands beside a number, it did best on the cases of
`python -m benchmarks.plans --simulated 100`.
"""

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
    "SEARCHES",
    "SETTLED_BATCHES",
    "SHARE",
    "SLOWER",
    "SPREAD",
    "STARTS",
    "VERDICTS",
    "WORK_COUNTS",
]

HAND_OVER_S = 70e-6
"""What a micro-batch costs in each stage in addition to the call, on a small virtual machine."""

SHARE = 0.01
"""The share of all time that candidates may lose. Learning and searching may take as much again."""

EARLY_BATCHES = 12
EARLY_SHARE = 0.2
"""At the start candidates may lose more, and every batch is learned from at once."""

MOST_SEARCH_S = 0.05
"""What learning and searching may take at once, at the start too."""

LEARN_EVERY = 4
"""Batches between two rounds of learning, after the first few."""

NOTICEABLE = 0.08
"""Smaller changes of a cost are noise: the model and what it proposes stay."""

VERDICTS = {2: (0.0, 1.1), 4: (0.3, 1.0), 8: (0.5, 0.8), 16: (0.6, 0.6)}
"""After so many turns of each plan, a candidate is dropped if it was faster in at most the first
share of all pairs, and comes into force if in at least the second.

Of equals one in six comes into force by chance, which costs nothing. Where single batches vary by
10 %, nine in ten that are 10 % faster do, six in ten that are 5 % faster, and two in a hundred that
are 5 % slower."""

GAIN = 0.03
"""Splitting must gain more than this share of a whole batch."""

MOST_FAILED = 4
"""A candidate is dropped when more of its batches have not finished: some plans make calls fail."""

RECENT_BATCHES = 9
"""The latest batches of a plan, which count."""

ENOUGH_BATCHES = 3
"""With fewer it is not known what a batch takes: one may have met a pause."""

SLOWER = 0.2
"""A split is not tried if the cost model says that it would be slower by more than this share."""

FIRST_WAIT_BATCHES = 64
MOST_WAIT_BATCHES = 1024
"""Batches that a plan waits after it has lost: twice as many each time."""

POSTPONED_BATCHES = 8
"""Batches until candidates are looked for again, if there was none."""

CHANGED = 1.25
"""If batches take this many times as long as before, the machine or the requests have changed."""

MOST_CALLS = 4096
"""Calls that are kept until the next round of learning."""

LOG_FROM_BATCH = 64
LOG_EVERY_S = 30.0
"""The log names a new plan after the first batches, and then no more often than this."""

WORK_COUNTS = 0.01
"""How much a second of work weighs against a second of waiting.

Of plans that finish at about the same time, the one with the fewest calls loads the machine least.
"""

SEARCHES = 8
"""The numbers of lanes for which sizes are searched at once: 20 to 60 ms on a slow machine.

With four, 7 of 100 cases with 16 cores and a lock end more than 5 % behind the best plan; with
eight, 3 do."""

STARTS = 3
"""The plans that the search starts from."""

FINER = (2, 3)
"""The sizes found are also tried cut into so many parts. Where several lanes wait for one another,
no stage alone gains by smaller micro-batches."""

REACH = 2
"""Two sizes are also changed at once, each by up to so many options."""

MOST_MICRO_BATCHES = 64
"""The most micro-batches of a stage; more only cost time."""

MATERIAL = 1.5
"""Sizes that differ by a smaller factor are alike."""

SPREAD = 1.25
"""The largest size must be this many times the smallest to tell what a row adds."""

OUTLIER = 0.1
"""A size that lies off the line by this share counts half, unless most do."""

MOST_LANES = 8
"""Lanes that `auto` gives preprocess and postprocess at most, of which the planner learns how many
are worth while. More would mostly wait for one another: for the interpreter, and for the single
lane of inference between them."""

MOST_PER_CORE = 4
"""Lanes of a stage for each core, whatever is asked for: settings may come from a larger machine.
Enough for stages that wait half of their time; lanes that compute gain nothing beyond one."""

REMEMBERED = 15
"""The latest calls of one size, which count. A pause in one of them does not move their median."""

FADES = 0.98
"""What is left of a size's weight after each round of learning in which it was not seen."""

FORGOTTEN = 0.01
"""A size with less weight than this is dropped, and may have to be explored again."""

ENOUGH_CALLS = 3
"""With fewer calls of a size it is not known how much they vary."""

SETTLED_BATCHES = 60
"""After so many batches `auto` has mostly found its sizes; commands that time a handler wait for
that."""
