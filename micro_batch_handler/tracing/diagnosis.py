"""What holds batches up and what to change, told in sentences; from calls and settings alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.planning.sizes import INFERENCE
from micro_batch_handler.tracing.batch_profile import BatchProfile
from micro_batch_handler.tracing.host_use import HostUse, served_in_turn
from micro_batch_handler.tracing.recording import Setup, TracedBatch
from micro_batch_handler.tracing.wording import compiling, number, percent

__all__ = ["Cause", "Diagnosis", "diagnose", "typical"]

Cause = Literal["lanes", "size", "slow", "host", "batch", "hand-over", "none"]
"""Too few lanes of a stage; micro-batches too large for its lanes; calls that cost too much; a
model host with too much to do; too few micro-batches to overlap; calls so short that handing over
takes longer; nothing stands out."""

WORTH_TELLING = 0.05
"""A change that saves less is not proposed."""

UNEVEN = 0.2
"""The share of its time that a batch may lose by filling and draining its stages before it is
called too small."""

FULL = 0.8
"""If the model host has rows of a batch for more than this share of its time, and computes mostly
for others, it is never without work."""


@dataclass(frozen=True)
class Diagnosis:
    """What holds batches up, and what to change."""

    bottleneck: Stage | None
    """The stage that holds them up; None if no single one does."""
    cause: Cause
    finding: str
    """One sentence."""
    advice: str
    """One or two sentences."""
    profile: BatchProfile = field(compare=False)
    """Of the batches that were judged."""

    def __str__(self) -> str:
        return f"{self.finding} {self.advice}"


def typical(batches: Sequence[TracedBatch]) -> list[TracedBatch]:
    """The batches of the kind (equal rows, equal plan) that took most of the time.

    Batches with failed calls count only if there are no others.

    Raises:
        TraceError: there are no batches with calls.
    """
    kinds: dict[object, list[TracedBatch]] = defaultdict(list)
    made = [batch for batch in batches if batch.calls]
    clean = [batch for batch in made if not any(call.failed for call in batch.calls)]
    for batch in clean or made:
        kinds[batch.rows, batch.plan].append(batch)
    if not kinds:
        raise TraceError("the trace has no batch with calls; send the worker some requests")
    return max(kinds.values(), key=lambda kind: sum(batch.wall_s for batch in kind))


def diagnose(batches: Sequence[TracedBatch], setup: Setup) -> Diagnosis:
    """Say what holds the typical batches up.

    Raises:
        TraceError: there are no batches with calls.
    """
    judged, lanes = typical(batches), setup.lanes
    host = HostUse.of(judged)
    if host is not None:
        judged = [served_in_turn(batch) for batch in judged]
        lanes = replace(lanes, inference=1)
    profile = BatchProfile.of(judged, lanes)
    stage = profile.bottleneck
    told: tuple[Cause, str, str]
    if stage == INFERENCE and host is not None:
        told = "host", *_slow_host(setup, host)
    elif stage is not None:
        told = _slow_stage(profile, setup, stage)
    elif profile.rows == 1:
        told = "batch", *_one_request(profile, setup.batch_size)
    elif profile.calls_are_short:
        told = "hand-over", *_short_calls(profile)
    elif profile.saved_by_endless_batches() < UNEVEN:
        told = "none", *_nothing(profile)
    else:
        told = "batch", *_small_batch(profile, setup.batch_size)
    cause, finding, advice = told
    if host is not None and cause != "host" and host.others > WORTH_TELLING:
        advice += (
            f" For {percent(host.others)} of the batch its rows were in the model host while that "
            "computed for other workers."
        )
    return Diagnosis(None if stage is None else STAGES[stage], cause, finding, advice, profile)


def _slow_host(setup: Setup, host: HostUse) -> tuple[str, str]:
    finding = (
        f"The model host is the bottleneck: it had rows of the batch for {percent(host.asked)} of "
        f"the time, and computed {percent(host.own)} for them"
    )
    if host.others > WORTH_TELLING:
        finding += f" and {percent(host.others)} for those of other workers"
    advice = (
        "More workers do not help, since all of them wait for one model."
        if host.asked > FULL and host.others > host.own
        else "More workers help only while the host has time left, which "
        "mbh_host_work_seconds_total tells."
    )
    tries = []
    if host.rows < setup.batch_size:
        tries.append(
            "a larger micro_batch_size for inference, which limits the rows of a host call (they "
            f"were {host.rows:.3g} on average)"
        )
    if not setup.pads:
        tries.append(compiling(setup.batch_size))
    tries.append("a smaller model, or a faster device")
    return f"{finding}.", f"{advice} Make the model faster. To try: {'; '.join(tries)}."


def _slow_stage(profile: BatchProfile, setup: Setup, stage: int) -> tuple[Cause, str, str]:
    name = STAGES[stage]
    inference_idle = percent(1 - profile.busy[INFERENCE])
    waited = f"{'it' if stage == INFERENCE else 'inference'} waited {inference_idle}"
    finding = f"{name} is the bottleneck: {_lanes_busy(profile, stage)}; {waited}."
    if stage == INFERENCE:
        tries = "; ".join(_for_the_model(profile, setup))
        return "slow", finding, f"Make the model faster. To try: {tries}."
    saved, lanes = profile.saved_by_lanes(stage, setup.cores)
    if saved > WORTH_TELLING and lanes > setup.lanes[STAGES[stage]]:
        advice = (
            f"It has too few lanes. Add {name} lanes: with parallelism: {{{name}: {lanes}}} the "
            f"batch would end {percent(saved)} earlier, if its calls do not wait for Python's "
            "lock."
        )
        return "lanes", finding, advice
    if profile.count(stage) <= profile.lanes[stage] < profile.rows:
        advice = (
            "Its micro-batches are too large to share out among lanes: set a smaller "
            f"micro_batch_size for {name}, and give it lanes."
        )
        return "size", finding, advice
    full = profile.lanes[stage] >= setup.cores
    why = "Each core has a lane for it" if full else "More lanes would not help"
    return "slow", finding, f"{why}: make its calls cheaper, or give the worker more cores."


def _for_the_model(profile: BatchProfile, setup: Setup) -> list[str]:
    """The changes that could make inference faster, without those that are made already."""
    size, tries = profile.plan[INFERENCE], []
    if size < profile.rows:
        tries.append(
            "a larger micro_batch_size for inference, where a call costs much however few its "
            "rows are"
        )
    if setup.on_device:
        tries.append("another worker (minWorkers, maxWorkers), if the device holds a second model")
    elif setup.threads is not None and setup.cores > 1:
        now = setup.threads.whole if profile.whole else setup.threads.lanes.inference
        share = setup.cores // profile.lanes[INFERENCE]
        if now < share:
            tries.append(f"intra_op_threads: {{inference: {share}}}, of which a call has {now} now")
        tries.append(
            f"more workers (minWorkers and maxWorkers up to {setup.cores}) with "
            "intra_op_threads: 1, which `tune` measures"
        )
    if not setup.pads:
        tries.append(compiling(min(size, profile.rows)))
    return [*tries, "a smaller model, or a faster device"]


def _one_request(profile: BatchProfile, batch_size: int) -> tuple[str, str]:
    name, busy = STAGES[profile.busiest], percent(profile.busy[profile.busiest])
    finding = (
        "Batches had one request each, which cannot be cut, so nothing overlapped: "
        f"{name}, the busiest, took {busy} of it."
    )
    if batch_size == 1:
        return finding, (
            "Set batchSize in model-config.yaml, to 32 for example (--batch-size tries it), and "
            "send requests from as many clients at a time."
        )
    return finding, (
        f"batchSize is {batch_size}: send requests from more clients at a time, or raise "
        "maxBatchDelay."
    )


def _small_batch(profile: BatchProfile, batch_size: int) -> tuple[str, str]:
    name, idle = STAGES[profile.busiest], percent(1 - profile.busy[profile.busiest])
    rows = number(profile.rows, "row")
    if profile.whole:
        finding = f"{rows} ran whole, so nothing overlapped: {name}, the busiest, waited {idle}."
    else:
        calls = number(profile.count(profile.busiest), "call")
        finding = (
            f"The batch is too small for the pipeline: {rows} in {calls} of {name}, the busiest, "
            f"which waited {idle} of it while stages filled and drained."
        )
    if profile.rows * 2 <= batch_size:
        advice = (
            f"Of batchSize {batch_size} only {profile.rows} came together: more clients or a "
            "longer maxBatchDelay would fill the batch."
        )
    elif max(profile.plan) > 1:
        advice = "Raise batchSize; or lower micro_batch_size, if it is not auto."
    else:
        advice = "Raise batchSize."
    return finding, advice


def _short_calls(profile: BatchProfile) -> tuple[str, str]:
    count = sum(map(profile.count, range(len(STAGES))))
    mean_ms = 1e3 * sum(profile.work_s) / count
    outside = percent(1 - profile.forecast_s / profile.batch_s)
    return (
        f"Handing over is the bottleneck: calls take {mean_ms:.2g} ms on average, and {outside} of "
        "the batch passed outside them.",
        "Use larger micro-batches, or none.",
    )


def _nothing(profile: BatchProfile) -> tuple[str, str]:
    return (
        f"No stage stands out: {STAGES[profile.busiest]}, the busiest, worked "
        f"{percent(profile.busy[profile.busiest])} of the batch.",
        "To be faster, all stages must be.",
    )


def _lanes_busy(profile: BatchProfile, stage: int) -> str:
    busy = percent(profile.busy[stage])
    if profile.whole:
        return f"it took {busy} of the batch, which ran whole"
    lanes = profile.lanes[stage]
    return f"its {number(lanes, 'lane')} {'were' if lanes > 1 else 'was'} busy {busy} of the batch"
