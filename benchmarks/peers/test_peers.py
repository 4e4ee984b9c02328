"""The parts of benchmarks/peers: who is compared, what it costs, what bad requests do, tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

pytest.importorskip("matplotlib", reason="the extra `benchmark` is not installed")

from benchmarks.peers import contestants, rounds
from benchmarks.peers.__main__ import PAGE, SERVERS
from benchmarks.peers.__main__ import WORKLOADS as NAMED
from benchmarks.peers.faults import Faults, with_bad_requests
from benchmarks.peers.meter import Cost, metered
from benchmarks.peers.page import page
from benchmarks.peers.publish import BEGIN, END, publish
from benchmarks.peers.report import result_of, table, write
from benchmarks.peers.rounds import Entry, Lengths
from benchmarks.peers.servers import PeerServer, Running, TorchServeServer
from benchmarks.throughput.search import Found
from harness.clients import Sample
from harness.wait import until

LENGTHS = Lengths(1, [1, 64], 5.0, 0.0, 0.0, 0.0, None, 0.0)


def entry(key: str, rate: float, settings=None) -> Entry:
    """A server that answered so many requests per second, with one client and with 64."""
    sample = Sample(int(5 * rate), 5.0, 0, 0, 1000 / rate, 2000 / rate, 3000 / rate)
    samples = {clients: [(sample, Cost(0.5, 3 * 2**20))] for clients in LENGTHS.clients}
    return Entry(TorchServeServer(key, key.title(), key), Found(settings or {}), samples)


def test_the_command_knows_all_that_are_compared():
    """Its names, which it lists without an import, are those of the servers and workloads."""
    assert SERVERS == contestants.NAMES
    assert NAMED == tuple(contestants.WORKLOADS)
    assert [contestants.server_of(name).key for name in SERVERS] == list(SERVERS)


@pytest.mark.parametrize("name", contestants.PEERS)
def test_a_peer_says_how_it_is_run(name):
    """Each has settings for every workload, exact versions of what it needs, and a server."""
    server = contestants.server_of(name)
    folder = Path(__file__).parent / name
    pins = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()

    assert isinstance(server, PeerServer)
    assert all(server.settings(workload) for workload in contestants.WORKLOADS.values())
    assert all("==" in line for line in pins if line and not line.startswith(("#", "-")))
    assert (folder / "serve.py").exists()


def test_failed_good_requests_are_told_from_bad_ones(http_server):
    """A good request that fails because of a bad one is counted, the bad one itself is not."""
    bad_came, harm = threading.Event(), threading.Lock()

    def answer_of(body):
        if body == b"bad":
            bad_came.set()
            return 400, b"{}"
        if bad_came.is_set() and harm.acquire(blocking=False):  # once
            return 500, b"{}"
        return 200, json.dumps(2 * json.loads(body)).encode()

    with http_server(answer_of) as url:
        running = Running(url, [b"1", b"2"], "application/json", lambda answer: answer, list)
        found = with_bad_requests(running, [2, 4], b"bad", clients=2, seconds=1.0, share=0.3)

    assert found.good > found.bad > 0
    assert found.bad_told == found.bad
    assert found.good_failed == 1


def test_a_meter_sees_processor_time_and_memory():
    """What a process does while it is metered counts, and nothing that it did before."""
    code = "import sys; x = bytearray(50_000_000); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with metered(lambda: [process.pid]) as cost:
            pass
        process.stdin.close()
    with metered(lambda: [os.getpid()]) as own:
        sum(range(2_000_000))

    assert cost.memory_bytes > 50_000_000
    assert own.cpu_s > cost.cpu_s


def test_a_restless_server_rests_until_its_turn():
    """What it does while nobody asks it takes no core from the others."""
    with subprocess.Popen(["sleep", "60"]) as process:

        def stopped() -> bool:
            return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

        running = Running("", [], "", lambda answer: answer, lambda: [process.pid], restless=True)
        with running.turn():
            pass
        until(stopped, "it to stop")
        with running.turn():
            until(lambda: not stopped(), "it to go on")
        until(stopped, "it to stop again")
        process.kill()


def test_settings_that_cannot_work_lose_the_search(monkeypatch, tmp_path):
    """A server is not left out for one of them, even if it fails only while it ends."""

    class Fragile:
        title = "Fragile"

        def settings(self, _):
            return [{"size": 1}, {"size": 2}, {"size": 3}]

        @contextmanager
        def running(self, _, settings, __):
            if settings["size"] == 2:
                raise RuntimeError("out of memory")
            yield Running(str(settings["size"]), [], "", str, list)
            if settings["size"] == 3:
                raise AssertionError("a process is left")

    def press(running, clients, seconds):
        return Sample(10 * int(running.url), 1.0, 0, 0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(rounds, "_press", press)

    found = rounds._search(contestants.WORKLOADS["vector"], Fragile(), tmp_path, LENGTHS).found

    assert {"size": 3} == found.candidate
    assert [10.0, 0.0, 30.0] == [each["rate"] for each in found.record]


def test_tables_put_the_fastest_first():
    """A row for each server, in order."""
    servers = [entry("slow", 10).figures(), entry("fast", 1000).figures()]

    rows = table(servers, LENGTHS.clients).splitlines()

    assert rows[2].startswith("| Fast | defaults | 1,000 | 1,000 | 1.0 / 2.0 / 3.0 | 0.10 | 3 |")
    assert rows[3].startswith("| Slow |")


def test_tables_tell_the_settings_of_each():
    """What a search has chosen stands there, of TorchServe's servers as of others."""
    section = {
        "micro_batch_size": {"preprocess": 4, "inference": 16},
        "parallelism": {"preprocess": 2},
        "sort_by_length": True,
    }
    settings = {"batchSize": 16, "micro_batching": section}
    peer = replace(entry("peer", 5), server=contestants.server_of("mosec"))
    peer = replace(peer, found=Found({"inference": 2, "max_batch_size": 16}))

    servers = [entry("one", 10, settings).figures(), peer.figures()]

    rows = table(servers, LENGTHS.clients).splitlines()

    assert rows[2].startswith(
        "| One | batchSize 16, micro_batch_size 4/16/auto, parallelism 2/1/1, sort_by_length |"
    )
    assert rows[3].startswith("| mosec | inference 2, max_batch_size 16 |")


def result() -> dict:
    """Of one workload and two servers, of which one was asked with bad requests, too."""
    workload = contestants.WORKLOADS["vector"]
    fast = replace(entry("fast", 1000), faults=Faults(200, 10, 4, 4))
    played = [("vector", workload, [entry("slow", 10), fast])]
    return result_of({"machine": "a <small> one", "date": "2026-01-02"}, LENGTHS, played)


def test_the_page_needs_nothing_else(tmp_path):
    """It loads no file and no address, and its plot names every server."""
    text = page(result())
    files = write(tmp_path / "run" / "peers.json", result())

    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "Slow" in text
    assert "a &lt;small&gt; one" in text
    assert all(file.stat().st_size for file in files)
    assert json.loads(files[0].read_text())["workloads"][0]["servers"][0]["server"] == "Slow"


def test_a_result_file_is_published_as_often_as_one_likes(tmp_path):
    """The page gets date, machine, a picture and a table of each workload, once; the rest stays.

    Of several runs, whose workloads differ, it gets all.
    """
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"before\n\n{BEGIN}none yet\n{END}\nafter\n", encoding="utf-8")
    stored, *_ = write(tmp_path / "peers.json", result())
    first = json.loads(stored.read_text())
    (workload,) = first["workloads"]
    second = {**first, "workloads": [{**workload, "name": "another"}]}

    for results in ([first, second], [first, second], [first]):
        files = publish(results, docs)
        assert [f"### {workload['name']}", "### another"][: len(results)] == re.findall(
            r"^### .+", docs.read_text(encoding="utf-8"), re.MULTILINE
        )

    text = docs.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "none yet" not in text
    assert text.count("Measured on 2026-01-02, a <small> one.") == 1
    assert "| Fast | defaults | 1,000 | 1,000 |" in text
    assert "| 5.0% of 200 |" in text
    (picture,) = re.findall(r"!\[[^\]]+\]\((.+)\)", text)
    drawn = ET.parse(tmp_path / picture)
    assert {"Fast", "Slow"} <= {
        each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {tmp_path / picture, tmp_path / "benchmarks" / "peers.json", docs} == set(files)


def test_a_page_without_a_place_is_left_alone(tmp_path):
    """The error prints the markers, and nothing is written."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text("text\n", encoding="utf-8")

    with pytest.raises(ValueError, match="put in\n<!-- what follows"):
        publish([result()], docs)

    assert [docs] == list(tmp_path.iterdir())


def test_a_workload_is_published_once(tmp_path):
    """Of two runs of it nobody could tell which picture is shown."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"{BEGIN}none yet\n{END}", encoding="utf-8")

    with pytest.raises(ValueError, match="comes twice"):
        publish([result(), result()], docs)


def test_our_page_has_a_place():
    """docs/benchmarks.md has the markers."""
    text = PAGE.read_text(encoding="utf-8")

    assert BEGIN in text
    assert END in text
