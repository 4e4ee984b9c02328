"""Copying payloads between host and device through pinned buffers, in the current stream.

    upload      tensors -> buffer (at once) -> device (later)
    download    device -> buffer (later); once that is done: buffer -> tensors of their own

All tensors of a payload share one buffer. What cannot go through a buffer (a sparse tensor, or none
is left) is copied without, and waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.payloads.structure import change_leaves

__all__ = ["TakeBuffer", "Transfer", "download", "upload"]

TakeBuffer: TypeAlias = Callable[[int], "Any | None"]
"""A pinned buffer of so many bytes for the caller's call; None if none is left."""

ALIGNMENT_BYTES = 256
"""Where a tensor may begin in a buffer: as in the device's own memory."""


class Transfer:
    """A payload on its way."""

    __slots__ = ("_copy_of", "_places", "buffer", "payload")

    def __init__(
        self, payload: Payload, buffer: Any, places: dict[int, Any], copy_of: Callable[[Any], Any]
    ) -> None:
        self.payload = payload
        """What it becomes; its values come later."""
        self.buffer = buffer
        """In use until the device is done with the copies; None if there is none."""
        self._places = places
        self._copy_of = copy_of

    def own(self) -> Payload:
        """What was downloaded, without the buffer, once the device is done with the copies."""
        return change_leaves(
            self.payload, lambda leaf: self._copy_of(leaf) if id(leaf) in self._places else leaf
        )


def upload(device: Accelerator, take_buffer: TakeBuffer, payload: Payload) -> Transfer:
    """Ask for copies of the payload's host tensors on the device."""

    def copy(leaf: Any, place: Any) -> Any:
        device.fill(place, leaf)
        return device.upload(place, wait=False)

    return _transfer(
        device,
        take_buffer,
        payload,
        device.is_on_host,
        copy,
        lambda leaf: device.upload(leaf, wait=True),
    )


def download(device: Accelerator, take_buffer: TakeBuffer, payload: Payload) -> Transfer:
    """Ask for copies of the payload's device tensors in the host's memory."""

    def copy(leaf: Any, place: Any) -> Any:
        device.download(leaf, place)
        return place

    return _transfer(device, take_buffer, payload, device.is_here, copy, device.fetch)


def _transfer(
    device: Accelerator,
    take_buffer: TakeBuffer,
    payload: Payload,
    is_meant: Callable[[Any], bool],
    copy: Callable[[Any, Any], Any],
    copy_without: Callable[[Any], Any],
) -> Transfer:
    leaves: dict[int, Any] = {}
    change_leaves(payload, lambda leaf: leaves.setdefault(id(leaf), leaf))
    starts: dict[int, int] = {}
    end = 0
    for key, leaf in leaves.items():
        size = device.size_bytes(leaf) if is_meant(leaf) else None
        if size is not None:
            starts[key] = end
            end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    buffer = take_buffer(end) if end else None
    places: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for key, leaf in leaves.items():
        if not is_meant(leaf):
            copies[key] = leaf
        elif buffer is None or key not in starts:
            copies[key] = copy_without(leaf)
        else:
            place = device.place(leaf, buffer, starts[key])
            places[id(place)] = place
            copies[key] = copy(leaf, place)
    return Transfer(
        # A mapping may make its values anew each time; `leaves` keeps the ids of the first apart.
        change_leaves(payload, lambda leaf: copies.get(id(leaf), leaf)),
        buffer,
        places,
        device.copy_of,
    )
