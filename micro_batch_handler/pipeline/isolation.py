"""What to do when a call fails: halve, retry, give each request its own outcome.

    call on 8 rows fails            row 5 is guilty
      call on 4 rows                answered
      call on 4 rows fails
        call on 2 rows fails
          call on 1 row fails       row 5 gets the error
          call on 1 row             answered
        call on 2 rows              answered

At most about 2 k (log2 n + 1) calls for k guilty of n rows. A row is guilty when calls on it alone,
from the request on, have failed, and not for the first time: so a fault that does not repeat leaves
nobody failed, and neither does what a neighbour has done to a shared payload.
"""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass

import torch

from micro_batch_handler.errors import PayloadError, StageTimeout
from micro_batch_handler.pipeline.batches import MicroBatch, Part
from micro_batch_handler.pipeline.payloads import Payload, fingerprint

__all__ = ["OUT_OF_MEMORY", "Policy", "device_is_lost", "free_memory", "retries"]

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)

STICKY = (
    "device-side assert",
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc",
    "hardware stack error",
)
"""What the runtime says when the device is lost to this process: every later call fails too.

https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html, the errors after which "the
process must be terminated and relaunched".
"""


@dataclass(frozen=True)
class Policy:
    """How faults are met."""

    isolate: bool = True
    """False: a failed call is not repeated."""

    deliberate: tuple[type[BaseException], ...] = ()
    """Errors by which a stage answers one request on purpose; alone, it is not called again."""


def retries(
    policy: Policy, batch: MicroBatch, error: BaseException, payload: Payload, before: object
) -> list[MicroBatch]:
    """The micro-batches to call instead of one that failed; none if the error is its outcome.

    Args:
        policy: how faults are met.
        batch: what failed.
        error: what it failed with.
        payload: what the stage was called with.
        before: the payload's `fingerprint` before the call. Halves are cut from the payload only
            if it is certain that the call has not changed it; otherwise they start from their
            rows.
    """
    if isinstance(error, StageTimeout):
        return []
    if isinstance(error, PayloadError) and batch.parts:
        return _parts_again(batch)
    failed_calls = batch.failed_calls + 1
    if len(batch) == 1:
        deliberate = isinstance(error, (PayloadError, *policy.deliberate))
        # A payload cut from one that others share may be bad because of them (padded to the
        # longest, say), so only a call that began with this row alone can find it guilty.
        guilty = failed_calls > 1 and not batch.parts
        return [] if deliberate or guilty else [MicroBatch(batch.indices, (), failed_calls)]
    intact = before is not None and before == fingerprint(payload)
    parts = [Part(payload, len(batch), 0, len(batch))] if intact else []
    return MicroBatch(batch.indices, parts, failed_calls).pieces(_half(batch))


def _parts_again(batch: MicroBatch) -> list[MicroBatch]:
    """Nothing was called, because the parts could not be joined or cut."""
    if len(batch.parts) > 1:
        return batch.pieces(_half(batch))  # their rows differ in shape, perhaps
    # A plan that cannot be carried out is an error to be seen. A piece that only we wanted starts
    # from its rows, which can always be cut.
    return [] if batch.planned else [MicroBatch(batch.indices, (), batch.failed_calls)]


def _half(batch: MicroBatch) -> int:
    return -(-len(batch) // 2)


def device_is_lost(error: BaseException) -> bool:
    """Whether the error means that no later call on the device can succeed."""
    accelerator_error = getattr(torch, "AcceleratorError", None)
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, OUT_OF_MEMORY):
        return False
    try:
        text = str(error).lower()
    except BaseException:
        return False
    return any(sign in text for sign in STICKY)


def free_memory(error: BaseException) -> None:
    """Let go of what a failed call held, and give cached blocks back to the device.

    The traceback's frames pin the tensors of the call (https://pytorch.org/docs/stable/notes/faq.html,
    "My out of memory exception handler can't allocate memory").
    """
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
