"""Payloads in parts: what comes out is what went in, and large parts are copied once."""

from __future__ import annotations

import itertools
import pickle
import re
import subprocess
import sys
from collections import UserDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_batch_handler.hosting.arena import Arena
from micro_batch_handler.hosting.pickling import dump, load, place, placed_bytes, views
from micro_batch_handler.hosting.shared_memory import SharedMemory
from tests.fakes import ManualClock
from tests.odd_values import OBJECTS

TENSOR_TYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint64,
]
ARRAY_TYPES = ["f4", ">f4", "f2", "c8", "?", "u1", "i8", "M8[s]", "S5", "U3", "i4,f8"]


def handed_over(payload):
    """The payload as the other side gets it, and the memory that it lies in."""
    data, buffers = dump(payload)
    memory = memoryview(bytearray(placed_bytes(buffers) + 256))
    places = place(buffers, memory, 0)
    return load(data, views(memory, places)), np.frombuffer(memory, np.uint8)


def lies_in(tensor: torch.Tensor, memory: np.ndarray) -> bool:
    start = memory.ctypes.data
    return start <= tensor.data_ptr() < start + len(memory)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes()


def some_tensor(shape, dtype) -> torch.Tensor:
    count = int(np.prod(shape))
    return (torch.arange(count) % 120 + 1).to(dtype).reshape(shape)


@st.composite
def tensors(draw):
    """Tensors of all types whose dimensions were cut, expanded and permuted."""
    shape = draw(st.lists(st.integers(0, 12), max_size=4))
    tensor = some_tensor(shape, draw(st.sampled_from(TENSOR_TYPES)))
    for axis in range(tensor.ndim):
        start, step = draw(st.sampled_from([(0, 1), (0, 1), (1, 1), (0, 2)]))
        index = (slice(None),) * axis + (slice(start, None, step),)
        tensor = tensor[index]
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
    return tensor.permute(draw(st.permutations(range(tensor.ndim))))


@given(tensors())
def test_tensors_are_as_a_copy_to_a_device_would_be(tensor):
    """Type, shape and bits are the same, and so are the strides wherever `.to` keeps them."""
    found, memory = handed_over(tensor)

    assert type(found) is torch.Tensor
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.stride() == torch.empty_like(tensor, device="meta").stride()
    assert bits(found) == bits(tensor)
    assert lies_in(found, memory) == (tensor.numel() * tensor.element_size() >= 1024)


@pytest.mark.parametrize("dtype", TENSOR_TYPES, ids=str)
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
def test_a_batch_of_images_keeps_its_format(dtype, format_):
    """Of any type, channels last stays so, and no copy is made before the one into the memory."""
    batch = some_tensor((2, 3, 32, 32), dtype).contiguous(memory_format=format_)

    data, [buffer] = dump(batch)
    found, memory = handed_over(batch)

    assert len(data) < 300
    assert np.frombuffer(buffer, np.uint8).ctypes.data == batch.data_ptr()
    assert found.is_contiguous(memory_format=format_)
    assert lies_in(found, memory)
    assert bits(found) == bits(batch)


def test_one_row_in_channels_last_needs_no_copy():
    """The stride of a dimension with one entry is of no matter, and is kept."""
    row = torch.ones(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)[::2][:1]

    _, [buffer] = dump(row)
    found, _ = handed_over(row)

    assert np.frombuffer(buffer, np.uint8).ctypes.data == row.data_ptr()
    assert found.stride() == row.stride()


@st.composite
def arrays(draw):
    """Arrays of all types whose axes were cut, reversed and transposed."""
    shape = draw(st.lists(st.integers(0, 12), max_size=4))
    array = np.arange(int(np.prod(shape))).reshape(shape)
    dtype = np.dtype(draw(st.sampled_from(ARRAY_TYPES)))
    # Strings and dates have values of their own; their bits matter.
    array = array.astype(dtype) if not dtype.names else np.zeros(shape, dtype)
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in shape]
    array = array[tuple(slice(None, None, step) for step in steps)] if shape else array
    if draw(st.booleans()):
        array = np.broadcast_to(array, (draw(st.integers(1, 3)), *array.shape))
    return array.transpose(draw(st.permutations(range(array.ndim))))


@given(arrays())
def test_arrays_come_as_they_were(array):
    """Type, shape and values are the same, whatever views the array went through."""
    found, _ = handed_over(array)

    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_transposed_image_is_copied_once(order):
    """Height, width and channels in any order keep their strides and lie in the memory."""
    image = np.random.default_rng(0).random((20, 30, 3)).transpose(order)

    _, [buffer] = dump(image)
    found, memory = handed_over(image)

    assert np.frombuffer(buffer, np.uint8).ctypes.data == image.ctypes.data
    assert found.strides == image.strides
    assert np.array_equal(found, image)
    assert np.shares_memory(found, memory)


@pytest.mark.parametrize("flip", [np.flipud, np.fliplr, lambda image: image[..., ::-1]])
def test_a_flipped_image_keeps_the_order_of_its_axes(flip):
    """It is copied as numpy would copy it, so that later stages read it in order."""
    image = flip(np.random.default_rng(0).random((20, 30, 3)))

    found, _ = handed_over(image)

    assert found.flags.c_contiguous
    assert np.array_equal(found, image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones((40, 40)),
        lambda: np.ones((40, 40, 3)).transpose(2, 0, 1),
        lambda: np.ones((40, 40))[::2, ::-1],
        lambda: np.ones(3),
        lambda: np.ones((4, 4, 4)).transpose(2, 0, 1),
        lambda: torch.ones(40, 40),
        lambda: torch.ones(3),
    ],
)
def test_what_comes_can_be_written_to(make):
    """Arrays and tensors take new values in place, as they would have at home."""
    found, _ = handed_over(make())

    found[0] = 5

    assert found[0].min() == 5


def test_an_array_that_is_read_only_stays_so():
    """As pickle does it: it would not have been writable at home either."""
    found, _ = handed_over(np.frombuffer(bytes(5000), np.uint8))

    assert not found.flags.writeable


def test_what_lies_in_shared_memory_keeps_it():
    """A tensor and an array outlive the closing of the memory."""
    data, buffers = dump([torch.arange(1000), np.arange(1000)])
    shared = SharedMemory.create(placed_bytes(buffers))
    places = place(buffers, shared.view, 0)
    found = load(data, views(shared.view, places))

    shared.close()

    assert [part.sum().item() for part in found] == [499500, 499500]


def test_small_parts_stay_in_the_pickle_and_large_ones_beside_it():
    """A part of less than a kilobyte is not worth a place of its own."""
    data, buffers = dump([torch.ones(255), np.ones(100), torch.ones(256), np.ones((2, 64))])

    assert [buffer.nbytes for buffer in buffers] == [1024, 1024]
    assert [buffer.format for buffer in buffers] == ["B", "B"]
    assert 255 * 4 + 100 * 8 < len(data) < 255 * 4 + 100 * 8 + 500


def test_a_row_takes_no_more_than_its_own_bytes():
    """Other rows of the same tensor or array stay at home, also where it has no values."""
    batch = torch.ones(1000, 300)

    assert placed_bytes(dump(batch[3]).buffers) == 1280
    assert placed_bytes(dump(batch.numpy()[3]).buffers) == 1280
    assert placed_bytes(dump(list(batch[:10])).buffers) == 12800
    assert len(dump(batch[:0]).data) < 300


def test_a_part_that_comes_twice_stays_one():
    """Two names of one tensor or array are two names of one on the other side."""
    tensor, array = torch.ones(400), np.ones((20, 20, 3)).transpose(2, 0, 1)

    found, _ = handed_over([tensor, {"again": tensor}, array, array])

    assert found[0] is found[1]["again"]
    assert found[2] is found[3]


def test_gradients_end_here_and_values_are_final():
    """Conjugated and negated views come as plain values, and nothing asks for gradients."""
    values = torch.arange(800) * (1 + 2j)
    trained = torch.ones(400, requires_grad=True)
    payload = [values.conj(), values.conj().imag, torch._neg_view(values), trained * 2, trained]

    found, _ = handed_over(payload)

    assert not any(part.requires_grad or part.is_conj() or part.is_neg() for part in found)
    assert all(torch.equal(*pair) for pair in zip(found, payload, strict=True))


class Named(torch.Tensor):
    """A tensor of a kind of its own."""


def with_title() -> torch.Tensor:
    tensor = torch.ones(400)
    tensor.title = "a"
    return tensor


@pytest.mark.filterwarnings("ignore::UserWarning")  # quantized tensors are on their way out
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(30).to_sparse(),
        lambda: torch.nn.Parameter(torch.ones(400)),
        lambda: torch.ones(400).as_subclass(Named),
        lambda: torch.ones(400, device="meta"),
        lambda: torch.quantize_per_channel(
            torch.ones(2, 800), torch.tensor([0.1, 0.2]), torch.zeros(2), 0, torch.qint8
        ),
        with_title,
        lambda: torch.nn.Linear(20, 20),
        lambda: torch.float32,
        lambda: torch.Size([1, 2]),
        lambda: np.ma.masked_array(np.arange(300), np.arange(300) % 2),
        lambda: np.ma.masked_array(np.ones((40, 40)), np.eye(40))[::2, ::2],
        lambda: np.array([{"a": 1}, None] * 200).reshape(2, 5, 40).transpose(1, 0, 2),
        lambda: np.float32(1.5),
    ],
)
def test_other_kinds_are_pickled_as_always(make):
    """Kinds of tensors and arrays with more parts come as pickle alone would bring them."""
    value = make()
    found, _ = handed_over(value)
    expected = pickle.loads(pickle.dumps(value))

    assert type(found) is type(expected)
    assert getattr(found, "title", None) == getattr(value, "title", None)
    assert str(found) == str(expected)


def without_addresses(value) -> str:
    return re.sub("0x[0-9a-f]+", "0x", repr(value))


@given(OBJECTS)
def test_odd_values_are_pickled_as_always(value):
    """Whatever a stage returns comes as pickle alone would bring it, or fails as there."""
    try:
        expected = pickle.loads(pickle.dumps(value, 5))
    except Exception as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            dump(value)
        return

    found, _ = handed_over(value)

    assert without_addresses(found) == without_addresses(expected)


def test_an_error_of_a_payload_comes_through():
    """The exception of the user's own code is not wrapped."""
    error = KeyError("not today")

    class Stubborn:
        def __reduce__(self):
            raise error

    with pytest.raises(KeyError) as raised:
        dump([torch.ones(400), Stubborn()])

    assert raised.value is error


@given(st.lists(st.sampled_from([0, 1, 255, 256, 257, 100_000, (1 << 20) + 1]), max_size=4))
def test_places_are_aligned_and_nothing_else_is_written(sizes):
    """Each part begins at a multiple of 256, and only its own bytes change."""
    buffers = [memoryview(bytes([index + 1]) * size) for index, size in enumerate(sizes)]
    memory = memoryview(bytearray(512 + placed_bytes(buffers) + 256))

    places = place(buffers, memory, 512)

    assert all(start % 256 == 0 for start, _ in places)
    assert views(memory, places) == buffers
    assert np.count_nonzero(np.frombuffer(memory, np.uint8)) == sum(sizes)
    assert not any(memory[:512])
    assert not any(memory[512 + placed_bytes(buffers) :])


def test_another_process_gets_a_payload_and_changes_it_in_place():
    """A worker's batch is seen in the host without a copy, and the host's result in the worker."""
    batch = {"pixels": torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16), "rows": UserDict(a=1)}
    data, buffers = dump(batch)
    arena = Arena(1 << 20)
    slot = arena.take(placed_bytes(buffers), 0, ManualClock())
    places = place(buffers, arena.shared.view, slot.start)
    code = """if True:
        import sys
        from micro_batch_handler.hosting.pickling import load, views
        from micro_batch_handler.hosting.shared_memory import SharedMemory
        shared = SharedMemory.attach(int(sys.argv[1]), int(sys.argv[2]))
        batch = load(sys.stdin.buffer.read(), views(shared.view, eval(sys.argv[3])))
        batch["pixels"] *= 2
        assert batch["rows"]["a"] == 1
    """
    arguments = [str(arena.shared.fd), str(arena.shared.size_bytes), str(places)]

    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=data,
        pass_fds=[arena.shared.fd],
        check=True,
    )

    found = load(data, views(arena.shared.view, places))
    assert torch.equal(found["pixels"], batch["pixels"] * 2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_pickled_as_always():
    """Its rows of several lengths come as torch pickles them."""
    nested = torch.nested.nested_tensor([torch.ones(300), torch.zeros(400)])

    found, _ = handed_over(nested)

    assert found.is_nested
    assert all(torch.equal(*pair) for pair in zip(found.unbind(), nested.unbind(), strict=True))
