"""What holds a batch up, and what to change: decided from its calls and settings alone.

how much would be saved if the busiest stage cost nothing?    more: that stage is to blame
how much, for each row, if batches never ended?               more: the batch is too small
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.tracing.recording import Setup, TracedBatch
from micro_batch_handler.tracing.what_if import WhatIf

__all__ = ["Cause", "Diagnosis", "diagnose", "typical"]

Cause = Literal["lanes", "size", "slow", "batch", "hand-over", "none"]
"""Too few lanes of a stage; too large micro-batches for its lanes; a stage that costs too much; too
few micro-batches to overlap; calls so short that handing over takes longer; nothing stands out."""

WORTH_TELLING = 0.05
"""A change that saves less is none to propose."""

UNEVEN = 0.2
"""What a batch may lose by filling and draining its stages before it is called too small."""

OVERHEAD = 0.5
"""If so much of a batch passes outside its calls, they are too short."""


@dataclass(frozen=True)
class Diagnosis:
    """What holds a batch up."""

    bottleneck: Stage | None
    """The stage, if it is one."""
    cause: Cause
    busy: PerStage[float]
    """The share of the batch that the lanes of each stage worked, 0 to 1, on average."""
    finding: str
    """One sentence."""
    advice: str
    """One or two more."""

    def __str__(self) -> str:
        return f"{self.finding} {self.advice}"


def typical(batches: Sequence[TracedBatch]) -> list[TracedBatch]:
    """The batches of the kind, by rows and sizes, that took most of the time.

    Those without failed calls, if there are any.

    Raises:
        TraceError: there are no batches with calls.
    """
    kinds: dict[object, list[TracedBatch]] = defaultdict(list)
    made = [batch for batch in batches if batch.calls]
    clean = [batch for batch in made if not any(call.failed for call in batch.calls)]
    for batch in clean or made:
        kinds[batch.rows, batch.sizes].append(batch)
    if not kinds:
        raise TraceError("the trace has no batch with calls; send the worker some requests")
    return max(kinds.values(), key=lambda kind: sum(batch.wall_s for batch in kind))


def diagnose(batches: Sequence[TracedBatch], setup: Setup) -> Diagnosis:
    """What holds the typical batch up.

    Raises:
        TraceError: there are no batches with calls.
    """
    seen = WhatIf(typical(batches), setup)
    if seen.rows == 1:
        return _found(seen, None, "batch", _one_request(seen))
    by_batch = seen.saved_by_endless_batches()
    if not seen.inline and seen.forecast_s < OVERHEAD * seen.wall_s:
        return _found(seen, None, "hand-over", _calls_too_short(seen))
    if by_batch < seen.saved_by_ease(seen.busiest):
        return _held_up_by(seen, seen.busiest)
    if by_batch < UNEVEN:
        return _found(seen, None, "none", _nothing(seen))
    return _found(seen, None, "batch", _batch_too_small(seen))


def _held_up_by(seen: WhatIf, stage: int) -> Diagnosis:
    name = STAGES[stage]
    finding = f"{name} is the bottleneck: {_lanes_busy(seen, stage)}; {_waited(seen, stage)}."
    if name == "inference":
        advice = f"Make the model faster. To try: {'; '.join(_for_the_model(seen))}."
        return _found(seen, name, "slow", (finding, advice))
    saved, lanes = seen.saved_by_lanes(stage)
    if saved > WORTH_TELLING:
        advice = (
            f"It has too few lanes. Add {name} lanes: with parallelism: {{{name}: {lanes}}} the "
            f"batch would end {_percent(saved)} earlier, if its calls do not wait for Python's "
            "lock."
        )
        return _found(seen, name, "lanes", (finding, advice))
    if seen.count(stage) <= seen.lanes[stage] and seen.rows > seen.lanes[stage]:
        advice = (
            "Its micro-batches are too large to share out among lanes: set a smaller "
            f"micro_batch_size for {name}, and give it lanes."
        )
        return _found(seen, name, "size", (finding, advice))
    full = seen.lanes[stage] >= seen.setup.cores
    why = "Each core has a lane for it" if full else "More lanes would not help"
    advice = f"{why}: make its calls cheaper, or give the worker more cores."
    return _found(seen, name, "slow", (finding, advice))


def _for_the_model(seen: WhatIf) -> list[str]:
    """What could make inference faster with these settings; what is so already is left out."""
    setup, stage = seen.setup, STAGES.index("inference")
    tries = []
    if seen.sizes[stage] < seen.rows:
        tries.append(
            "a larger micro_batch_size for inference, where a call costs much however few its "
            "rows are"
        )
    if setup.on_device:
        tries.append("another worker (minWorkers, maxWorkers), if the device holds a second model")
    elif setup.threads is not None and setup.cores > 1:
        now = setup.threads.whole if seen.inline else setup.threads.lanes.inference
        share = setup.cores // seen.lanes[stage]
        if now < share:
            tries.append(f"intra_op_threads: {{inference: {share}}}, of which a call has {now} now")
        tries.append(
            f"more workers (minWorkers and maxWorkers up to {setup.cores}) with "
            "intra_op_threads: 1, which `tune` measures"
        )
    if not setup.pads:
        most = min(seen.sizes[stage], seen.rows)
        sizes = ", ".join(str(1 << bits) for bits in range((most - 1).bit_length() + 1))
        tries.append(
            f"compiling it (pt2: {{compile: {{enable: true}}}}, with allowed_sizes: [{sizes}])"
        )
    return [*tries, "a smaller model, or a faster device"]


def _one_request(seen: WhatIf) -> tuple[str, str]:
    name, busy = STAGES[seen.busiest], _percent(seen.busy[seen.busiest])
    finding = (
        "Batches had one request each, which cannot be cut, so nothing overlapped: "
        f"{name}, the busiest, took {busy} of it."
    )
    most = seen.setup.batch_size
    if most == 1:
        return finding, (
            "Set batchSize in model-config.yaml, to 32 for example (--batch-size tries it), and "
            "send requests from as many clients at a time."
        )
    return finding, (
        f"batchSize is {most}: send requests from more clients at a time, or raise maxBatchDelay."
    )


def _batch_too_small(seen: WhatIf) -> tuple[str, str]:
    name, idle = STAGES[seen.busiest], _percent(1 - seen.busy[seen.busiest])
    rows, most = _number(seen.rows, "row"), seen.setup.batch_size
    if seen.inline:
        finding = f"{rows} ran unsplit, so nothing overlapped: {name}, the busiest, waited {idle}."
    else:
        calls = _number(seen.count(seen.busiest), "call")
        finding = (
            f"The batch is too small for the pipeline: {rows} in {calls} of {name}, the busiest, "
            f"which waited {idle} of it while stages filled and drained."
        )
    if seen.rows * 2 <= most:
        advice = (
            f"Of batchSize {most} only {seen.rows} came together: more clients or a longer "
            "maxBatchDelay would fill the batch."
        )
    elif max(seen.sizes) > 1:
        advice = "Raise batchSize; or lower micro_batch_size, if it is not auto."
    else:
        advice = "Raise batchSize."
    return finding, advice


def _calls_too_short(seen: WhatIf) -> tuple[str, str]:
    mean_ms = 1e3 * fmean(call.ended_s - call.began_s for call in seen.calls)
    outside = _percent(1 - seen.forecast_s / seen.wall_s)
    return (
        f"Handing over is the bottleneck: calls take {mean_ms:.2g} ms on average, and {outside} of "
        "the batch passed outside them.",
        "Use larger micro-batches, or none.",
    )


def _nothing(seen: WhatIf) -> tuple[str, str]:
    return (
        f"No stage stands out: {STAGES[seen.busiest]}, the busiest, worked "
        f"{_percent(seen.busy[seen.busiest])} of the batch.",
        "To be faster, all stages must be.",
    )


def _lanes_busy(seen: WhatIf, stage: int) -> str:
    busy = _percent(seen.busy[stage])
    if seen.inline:
        return f"it took {busy} of the batch, which ran unsplit"
    lanes = seen.lanes[stage]
    return f"its {_number(lanes, 'lane')} {'were' if lanes > 1 else 'was'} busy {busy} of the batch"


def _waited(seen: WhatIf, stage: int) -> str:
    inference = STAGES.index("inference")
    who = "it" if stage == inference else "inference"
    return f"{who} waited {_percent(1 - seen.busy[inference])}"


def _found(
    seen: WhatIf, bottleneck: Stage | None, cause: Cause, told: tuple[str, str]
) -> Diagnosis:
    return Diagnosis(bottleneck, cause, PerStage(*seen.busy), *told)


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
