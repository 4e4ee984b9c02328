"""The soak: batches with random troubles, every answer checked, memory and threads watched."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
import torch

from benchmarks.soak.handlers import KINDS, Opaque, Slot, real_metrics, right_answer
from benchmarks.soak.troubles import (
    BATCH_SIZE,
    OK,
    PATIENCE_S,
    RAISED,
    RETURNED,
    SECRET,
    STAGE_TIMEOUT_S,
    TIMED_OUT,
    UNENCODABLE,
    Fault,
    Trouble,
)
from harness.service import predict, quiet
from harness.wire import DEADLINE_HEADER, Answer, Request, Wrong
from micro_batch_handler.config import STAGES

SAMPLE_EVERY = 100
REPLAN_EVERY = 500


@dataclass
class Report:
    """What a soak has found."""

    batches: int = 0
    seed: int = 0
    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many requests ended with each status."""
    faults: dict[str, int] = field(default_factory=dict)
    hangs: int = 0
    log_records: int = 0
    seconds: float = 0.0
    rss_kb: list[int] = field(default_factory=list)
    """Resident memory, every 100 batches."""
    slope_kb_per_1000_batches: float | None = None
    threads: list[int] = field(default_factory=list)
    """Before the first batch, and after the last."""
    open_files: list[int] = field(default_factory=list)
    torch: str = torch.__version__


class Soak:
    """All batches of one run."""

    def __init__(self, seed: int, hang_every: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  (repeatable, not secret)
        self._hang_every = hang_every
        self._next = 0
        metrics = real_metrics()
        self._slots = [Slot(place, self._chance, metrics) for place in range(len(KINDS))]
        self.report = Report(seed=seed)

    def close(self) -> None:
        """End all lanes."""
        for slot in self._slots:
            slot.handler.close()

    def batch(self, batch: int) -> None:
        """Run one batch and check every outcome."""
        chance = self._chance
        if batch % REPLAN_EVERY == REPLAN_EVERY - 1:
            slot = chance.choice(self._slots)
            slot.handler.close()
            slot.plan()
        slot = chance.choice(self._slots)
        numbers = self._numbers(chance.randint(1, BATCH_SIZE))
        hang = batch % self._hang_every == self._hang_every // 2
        trouble = self._trouble(numbers, hang, slot.handler.payload)
        self._run(slot, numbers, trouble)

    def last(self) -> None:
        """After everything that has happened, a batch without trouble is right in each handler."""
        for slot in self._slots:
            self._run(slot, self._numbers(BATCH_SIZE), Trouble())

    def _numbers(self, count: int) -> list[int]:
        """Never the same twice, so that an answer from an earlier batch is found out."""
        self._next += count
        return list(range(self._next - count, self._next))

    def _trouble(self, numbers: list[int], hang: bool, payload: type) -> Trouble:
        chance = self._chance
        if hang:
            return Trouble(hang=(chance.choice(STAGES), chance.choice(numbers)))
        fate = chance.random()
        if fate < 0.3:  # noqa: PLR2004
            return Trouble()
        if fate < 0.35:  # noqa: PLR2004
            # A refusal is an answer: its request is not called again.
            kinds = [kind for kind in RAISED if kind != "PredictionException"]
            return Trouble(once=(chance.choice(STAGES), chance.choice(kinds)))
        guilty = [number for number in numbers if chance.random() < 0.08]  # noqa: PLR2004
        capacity = chance.randint(1, 12) if chance.random() < 0.02 else BATCH_SIZE  # noqa: PLR2004
        return Trouble({number: self._fault(payload) for number in guilty}, capacity=capacity)

    def _fault(self, payload: type) -> Fault:
        chance = self._chance
        stage = chance.choice(STAGES)
        kinds = [*RAISED, "RecursionError"]
        # In an opaque payload nobody sees two wrong lengths that add up to the right one.
        kinds += [kind for kind in RETURNED if payload is not Opaque or "too" not in kind]
        kinds += [*UNENCODABLE] if stage == "postprocess" else []
        kinds += ["not JSON"] if stage == "preprocess" else []
        return Fault(stage, chance.choice(kinds))

    def _run(self, slot: Slot, numbers: list[int], trouble: Trouble) -> None:
        handler = slot.handler
        handler.trouble, handler.gate = trouble, threading.Event()
        before = _lanes()
        late = {n for n in numbers if not trouble.hang and self._chance.random() < 0.01}  # noqa: PLR2004
        code, message, answers = predict(
            slot.service, [self._request(n, trouble, n in late) for n in numbers]
        )
        expect((code, message), (OK, "Prediction success"), "the batch")
        expect([answer.id for answer in answers], [f"id-{n}" for n in numbers], "the ids")
        for place, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
            hung = trouble.hang and _together(slot, trouble.hang, numbers)[place]
            hangs = trouble.hang is not None and number == trouble.hang[1]
            if hangs or (hung and answer.code == TIMED_OUT):
                stage = trouble.hang[0] if trouble.hang else ""
                text = f"{stage}: one call took longer than {STAGE_TIMEOUT_S:g} s"
                check_error(answer, {(TIMED_OUT, text)})
            elif number in late:
                text = "preprocess: the request's deadline passed before this stage"
                check_error(answer, {(TIMED_OUT, text)})
            elif number in trouble.faults:
                check_error(answer, trouble.faults[number].outcomes)
            else:
                check_right(answer, number)
        self._count(trouble, answers)
        handler.gate.set()
        _until(lambda: len(_lanes()) == len(before), "the lanes are as many as before")

    def _request(self, number: int, trouble: Trouble, late: bool) -> Request:
        body = json.dumps({"n": number}).encode()
        fault = trouble.faults.get(number)
        if fault is not None and fault.kind == "not JSON":
            body = body[:-1] + b"\xff"
        left_ms = "0" if late else self._chance.choice(["60000", "soon", "nan", "1e999"])
        headers = [("host", "localhost")]
        if late or number % 4 == 0:
            headers.append((DEADLINE_HEADER, left_ms))
        return Request(f"id-{number}", body, headers=headers)

    def _count(self, trouble: Trouble, answers: list[Answer]) -> None:
        report = self.report
        report.requests += len(answers)
        report.hangs += trouble.hang is not None
        outcomes = Counter(report.outcomes) + Counter(str(answer.code) for answer in answers)
        report.outcomes = dict(sorted(outcomes.items()))
        faults = Counter(report.faults) + Counter(f.kind for f in trouble.faults.values())
        report.faults = dict(sorted(faults.items()))


def _together(slot: Slot, hang: tuple[str, int], numbers: list[int]) -> list[bool]:
    """Which requests the plan lets travel with the one that hangs."""
    size = slot.sizes[hang[0]]
    group = numbers.index(hang[1]) // size
    return [place // size == group for place in range(len(numbers))]


def expect(found: object, due: object, what: str) -> None:
    """Raise `Wrong` unless the two are equal."""
    if found != due:
        raise Wrong(f"{what}: found {found!r}, due is {due!r}")


def check_right(answer: Answer, number: int) -> None:
    """Check that the request has its own answer, status and headers, and nothing else."""
    due = right_answer(number)
    if isinstance(due, (bytes, str)):
        expect(answer.body.decode(), due if isinstance(due, str) else due.decode(), answer.id)
    else:
        expect(json.loads(answer.body), due, answer.id)
    made = number % 11 == 0
    expect((answer.code, answer.phrase), (201, "Made  it") if made else (OK, ""), answer.id)
    headers = {"x-n": str(number)} if number % 3 == 0 else {}
    kind = "" if isinstance(due, (bytes, str)) else "application/json"
    headers |= {"content-type": kind} if kind else {}
    expect((answer.content_type, answer.headers), (kind, headers), answer.id)


def check_error(answer: Answer, outcomes: set[tuple[int, str]]) -> None:
    """Check that the request has its own error, well formed, which tells nothing of the server."""
    body = json.loads(answer.body)
    expect(sorted(body), ["code", "message", "type"], answer.id)
    due = any(answer.code == code and body["message"].startswith(text) for code, text in outcomes)
    if not due or body["code"] != answer.code:
        raise Wrong(f"{answer.id}: {answer} where one of {outcomes} is due")
    expect(answer.content_type, "application/json", answer.id)
    if not re.fullmatch("[ -~]+", answer.phrase) or not body["type"].isidentifier():
        raise Wrong(f"{answer.id}: {answer} is not well formed")
    if SECRET.encode() in answer.body or SECRET in answer.phrase:
        raise Wrong(f"{answer.id}: the text of an error reached the client")
    if "x-n" in answer.headers:
        raise Wrong(f"{answer.id}: a failed call left a header")


def _lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mbh-")]


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise Wrong(f"not so after {PATIENCE_S:g} s: {what}")
        time.sleep(0.001)


M_ARENA_MAX = -8


def one_arena() -> None:
    """Let all threads allocate from one place, where glibc allows.

    Otherwise each new thread may leave free memory in an arena of its own, some MB in all. That
    ends after a while, but until then it hides a leak of the size that the slope can show.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def slope_per_1000(rss_kb: Sequence[int]) -> float | None:
    """Growth of memory by least squares over the second half, in kB per 1,000 batches."""
    half = list(rss_kb[len(rss_kb) // 2 :])
    if len(half) < 3:  # noqa: PLR2004
        return None
    middle, mean = (len(half) - 1) / 2, math.fsum(half) / len(half)
    products = math.fsum((at - middle) * (kb - mean) for at, kb in enumerate(half))
    return (
        products / math.fsum((at - middle) ** 2 for at in range(len(half))) * (1000 / SAMPLE_EVERY)
    )


def soak(
    batches: int,
    seed: int = 1,
    hang_every: int = 250,
    progress: Callable[[int], None] = lambda _: None,
    leak: Callable[[], None] = lambda: None,
) -> Report:
    """Run so many batches and check everything but the slope of memory.

    Args:
        batches: how many.
        seed: of all chance.
        hang_every: one batch in so many hangs for `stage_timeout`.
        progress: called after each batch.
        leak: called after each batch; a test loses memory here.

    Raises:
        Wrong: an answer, the lanes or the open files are not as they must be.
    """
    process = psutil.Process()
    started_s = time.monotonic()
    gc.collect()
    gc.freeze()  # else each collection after a MemoryError walks through all of torch
    with quiet() as log:
        run = Soak(seed, hang_every)
        report = run.report
        try:
            run.last()  # loads all that is loaded at first use
            report.threads.append(threading.active_count())
            report.open_files.append(process.num_fds())
            for batch in range(batches):
                try:
                    run.batch(batch)
                except Wrong as error:
                    raise Wrong(f"batch {batch} of seed {seed}: {error}") from error
                leak()
                if batch % SAMPLE_EVERY == SAMPLE_EVERY - 1:
                    report.rss_kb.append(process.memory_info().rss // 1024)
                progress(batch + 1)
            run.last()
            report.threads.append(threading.active_count())
            report.open_files.append(process.num_fds())
        finally:
            run.close()
            gc.unfreeze()
    report.batches = batches
    report.log_records = log.records
    report.seconds = round(time.monotonic() - started_s, 1)
    report.slope_kb_per_1000_batches = slope_per_1000(report.rss_kb)
    expect(report.threads[-1], report.threads[0], "threads")
    expect(report.open_files[-1], report.open_files[0], "open files")
    return report
