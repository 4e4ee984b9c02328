"""Answers are those of the serial path, however late the device is with its work."""

from __future__ import annotations

import threading

import pytest
import torch

from micro_batch_handler.pipeline.device.accelerator import accelerator_of
from tests.gpu.contestants import Contestant
from tests.gpu.delays import CASES, NO_DELAYS, forget, late_answers, right_answers
from tests.gpu.photos import photo

LATE_MS = 20.0

LATE = {
    "nothing": NO_DELAYS,
    "copies in": {**NO_DELAYS, "preprocess": LATE_MS},
    "compute": {**NO_DELAYS, "inference": LATE_MS},
    "copies out": {**NO_DELAYS, "postprocess": LATE_MS},
    "all": dict.fromkeys(NO_DELAYS, LATE_MS),
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("case", CASES)
def test_answers_are_right_whatever_is_late(bench, monkeypatch, case, late):
    """With kernels that sleep before each kind of work, nobody reads what is not there yet."""
    answers = late_answers(bench, monkeypatch, CASES[case], LATE[late])

    assert answers == right_answers(bench)


@pytest.mark.parametrize("late", ["copies in", "all"])
def test_regrouped_answers_are_right(bench, monkeypatch, late):
    """Joining and cutting on the device waits for what it joins."""
    sizes = {"preprocess": 1, "inference": 3, "postprocess": 2}

    answers = late_answers(bench, monkeypatch, {"micro_batch_size": sizes}, LATE[late])

    assert answers == right_answers(bench)


@pytest.mark.parametrize(
    ("broken", "late", "section"),
    [
        ("no stream waits", "copies in", {}),
        ("no stream waits", "compute", {}),
        ("no thread waits", "compute", {"device": {"copy_out": True}}),
        ("nothing is kept", "compute", {}),
    ],
)
def test_these_tests_see_a_missing_rule(bench, monkeypatch, broken, late, section):
    """With one rule of streams.py switched off, answers are wrong: the tests above have teeth."""
    if broken == "no stream waits":
        bench.make_deaf()
    elif broken == "no thread waits":
        bench.make_hasty()
    else:
        forget(monkeypatch)
    delays_ms = {stage: 5 * ms for stage, ms in LATE[late].items()}

    answers = late_answers(bench, monkeypatch, section, delays_ms)

    assert answers != right_answers(bench)


@pytest.fixture
def reproducible():
    """The same kernels for the same shapes."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("settings", [{"to_device": False}, {"to_device": True}])
@pytest.mark.parametrize(
    "more", [{}, {"device": {"copy_out": True}}, {"device": {"streams": False}}]
)
def test_a_networks_answers_are_bit_for_bit_those_of_basehandler(reproducible, settings, more):
    """ResNet-50 in micro-batches of 4, also where the handler copies to the device by itself."""
    bodies = [photo(number) for number in range(24)]
    serial = Contestant("serial", "photo_base")
    serial.load(4, 0, tiny=False)
    expected = [
        answer
        for start in range(0, len(bodies), 4)
        for answer in serial.answers(bodies[start : start + 4])
    ]
    section = {"micro_batch_size": 4, "parallelism": {"preprocess": 4}, **more}
    ours = Contestant("ours", "photo", section, settings)
    ours.load(len(bodies), 0, tiny=False)
    try:
        for _ in range(3):
            assert ours.answers(bodies) == expected
    finally:
        ours.close()
        serial.close()


@pytest.mark.parametrize("device", ["cuda", torch.device("cuda"), torch.device("cuda", 0), None])
def test_a_handlers_device_is_found_by_the_generic_module(bench, device):
    """However a handler names its GPU, streams and events are made on it and take its time."""
    accelerator = accelerator_of(device)

    assert accelerator is not None
    assert accelerator._module is torch.get_device_module("cuda")
    assert accelerator.device.index is not None
    stream = accelerator.stream()
    before, after = accelerator.event(), accelerator.event()
    with accelerator.using(stream):
        before.record(stream)
        bench.sleep(5)
        after.record(stream)
        assert torch.cuda.current_stream() == stream
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    after.synchronize()
    assert before.query()
    assert before.elapsed_time(after) > 1


def test_lanes_on_a_second_gpu_use_its_streams(bench, monkeypatch):
    """A handler on cuda:1 works in lanes whose current device was another."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is only one GPU")
    accelerator = accelerator_of("cuda:1")
    assert accelerator is not None
    bench.device, bench.accelerator = accelerator.device, accelerator

    assert late_answers(bench, monkeypatch, {}, NO_DELAYS) == right_answers(bench)


def test_modes_of_the_loading_thread_do_not_matter(bench, monkeypatch):
    """A default device and inference mode, as some handlers set them, change no answer."""
    right = right_answers(bench)

    with torch.device("cuda"), torch.inference_mode():
        inside = late_answers(bench, monkeypatch, {"device": {"copy_out": True}}, LATE["all"])

    assert inside == right
    assert late_answers(bench, monkeypatch, {"device": {"copy_out": True}}, NO_DELAYS) == right
    assert threading.current_thread() is threading.main_thread()
