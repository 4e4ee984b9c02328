"""Copies of payloads between host and device through page-locked buffers, in the current stream.

    upload      tensors -> buffer (at once) -> device (later)
    download    device -> buffer (later); once that is done: buffer -> tensors of their own

All tensors of a payload share one buffer. A tensor that cannot go through a buffer (a sparse one,
for example), and all of them if no buffer is left, are copied directly, and the host waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.payloads.structure import change_leaves

__all__ = ["TakeBuffer", "Transfer", "download", "upload"]

TakeBuffer: TypeAlias = Callable[[int], "Any | None"]
"""(bytes) -> a page-locked buffer for the caller's call; None if none is left"""

ALIGNMENT_BYTES = 256
"""Tensors begin at multiples of this in a buffer, as they do in the device's own memory."""


class Transfer(NamedTuple):
    """A payload on its way."""

    payload: Payload
    """The copy; its values come later."""
    buffer: Any | None
    """In use until the device is done with the copies."""
    places: dict[int, Any]
    """The copy's tensors that lie in the buffer, by their ids."""

    def own(self, device: Accelerator) -> Payload:
        """The downloaded payload without the buffer, once the device is done with the copies."""
        return change_leaves(
            self.payload, lambda leaf: device.copy_of(leaf) if id(leaf) in self.places else leaf
        )


def upload(device: Accelerator, take_buffer: TakeBuffer, payload: Payload) -> Transfer:
    """Ask for copies of the payload's host tensors on the device."""

    def copy(leaf: Any, place: Any) -> Any:
        device.fill(place, leaf)
        return device.upload(place, wait=False)

    def copy_directly(leaf: Any) -> Any:
        return device.upload(leaf, wait=True)

    return _transfer(device, take_buffer, payload, device.is_on_host, copy, copy_directly)


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
    is_wanted: Callable[[Any], bool],
    copy: Callable[[Any, Any], Any],
    copy_directly: Callable[[Any], Any],
) -> Transfer:
    # A mapping may make new values each time that it is read. These are held meanwhile, so that no
    # other leaf gets one of their ids.
    leaves: dict[int, Any] = {}
    change_leaves(payload, lambda leaf: leaves.setdefault(id(leaf), leaf))
    wanted = {key: leaf for key, leaf in leaves.items() if is_wanted(leaf)}
    starts: dict[int, int] = {}
    end = 0
    for key, leaf in wanted.items():
        size = device.size_bytes(leaf)
        if size is not None:
            starts[key] = end
            end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    buffer = take_buffer(end) if end else None
    places: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for key, leaf in wanted.items():
        if buffer is None or key not in starts:
            copies[key] = copy_directly(leaf)
        else:
            place = device.place(leaf, buffer, starts[key])
            places[id(place)] = place
            copies[key] = copy(leaf, place)
    copied = change_leaves(payload, lambda leaf: copies.get(id(leaf), leaf))
    return Transfer(copied, buffer, places)
