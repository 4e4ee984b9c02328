"""Which of five advices an archive gets. The first rule that holds decides.

    rule                                                               advice
    1  TorchServe's frontend takes longer than the handler             nothing to gain
    2  decoding on the GPU may be DECODED times as fast as the rest    decode on the GPU
    3  no option is LEAST_GAIN faster, or more than the noise          nothing to gain
    4  more copies than fit would pay, and around one model they are   share_model
       SURE faster than all that fits
    5  the changed line gains, and plain workers are not SURE faster   use it as it is
    6  more plain workers do not gain, or are SURE faster with the     use it as it is, in them
       changed line
    7  else                                                            more plain workers

Why, and where that was measured:

    1  No option changes the frontend: tools/tuning/load.py, GAP.
    2  The cores decode and the GPU waits: benchmarks/README.md, gpu. examples/gpu_photos decodes
       there.
    3  README, "When not to use it".
    4  Where copies fit, more plain workers are about as fast: docs/share_model.md.
    5  It costs no memory. Stages overlap, and JSON costs less: benchmarks/README.md, throughput.
    6  Both gains add up: benchmarks/README.md, peers.
    7  One worker waits for the frontend between two batches, whatever it does inside one:
       benchmarks/README.md, gpu and peers.

More plain workers are looked for up to one for each core. Whether decoding on the GPU may help is
only asked if all samples are JPEGs, there is a GPU, and preprocess on all cores takes longer than
inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from micro_batch_handler.tools.advising.options import Option, Options
from micro_batch_handler.tools.tuning.report import MISSED
from micro_batch_handler.tools.tuning.result import NOISY

__all__ = ["DECODED", "LEAST_GAIN", "SURE", "Advice", "Verdict", "advise"]

LEAST_GAIN = NOISY
"""A smaller gain is within what `tune` calls the noise of a machine. The sentence encoder of the
benchmarks gains 2 to 7 % on two cores, with overlapping ranges; the images gain 61 to 81 %."""

SURE = MISSED
"""Two forecasts that are nearer to each other cannot be told apart: `tune` reports predictions that
were further off. Then the option that costs less memory and fewer changes is preferred."""

DECODED = 2.0
"""The forecast is a bound, since decoding takes time of the GPU, too. So half of it must still be
a gain. (Nothing is published on how much of it is reached; the half is an assumption.)"""


class Verdict(Enum):
    """The advice, as --json has it."""

    USE = "use"
    SHARE = "share_model"
    WORKERS = "more_workers"
    DECODE = "decode_on_gpu"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Advice:
    """One advice, and what is expected of it."""

    verdict: Verdict
    option: Option
    gain: float
    """How many times the requests per second of TorchServe alone."""


def advise(options: Options) -> Advice:
    """The advice for what was forecast."""
    now, changed, workers = options.now, options.changed, options.workers
    shared, decoded = options.shared, options.decoded
    fit = max(each.rate for each in (now, changed, workers, options.both))
    least = (1 + max(LEAST_GAIN, options.noise)) * now.rate
    sharing = options.crowded is not None and shared.rate >= (1 + SURE) * fit
    best = max(fit, shared.rate if sharing else 0.0)
    if decoded is not None and decoded.rate >= max(DECODED * best, least):
        return _advice(Verdict.DECODE, decoded, now)
    if best < least or options.frontend_bound:
        return _advice(Verdict.NOTHING, now, now)
    if sharing:
        return _advice(Verdict.SHARE, shared, now)
    if changed.rate >= least and (1 + SURE) * changed.rate >= workers.rate:
        return _advice(Verdict.USE, changed, now)
    if workers.rate < least or options.both.rate >= (1 + SURE) * workers.rate:
        return _advice(Verdict.USE, options.both, now)
    return _advice(Verdict.WORKERS, workers, now)


def _advice(verdict: Verdict, option: Option, now: Option) -> Advice:
    return Advice(verdict, option, option.rate / now.rate)
