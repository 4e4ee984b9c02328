"""The quickstart and the example as a user meets them: from the outside, on a copy of the checkout.

One server for all of it, left running by `--keep`; the request printed for the user is the one
that is sent here.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from PIL import Image

from harness.wait import until
from micro_batch_handler.ray.grpc_api import SERVICE

ROOT = Path(__file__).parent.parent
COPIED = ["config.properties", "log4j2.xml", "metrics.yaml"]
COPIED += ["examples", "micro_batch_handler", "scripts"]

CURL = re.compile(r'curl (http://127\.0\.0\.1:(\d+)/\S+) -T (\S+) -H "Authorization: (.+)"')


@dataclass
class Kept:
    """What a user has in hand after `scripts/quickstart --keep`."""

    checkout: Path
    printed: str
    url: str
    port: int
    photo: bytes
    headers: dict[str, str]

    def send(self, body: bytes) -> requests.Response:
        """Send one body as curl would."""
        return requests.put(self.url, data=body, headers=self.headers, timeout=60)


def quickstart(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the quickstart past its installing part."""
    command = [sys.executable, checkout / "scripts" / "_quickstart.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def five_free_ports() -> int:
    """The first of five ports in a row that nobody uses now."""
    while True:
        first = random.randrange(20000, 30000)
        try:
            for port in range(first, first + 5):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def copy_checkout(copy: Path) -> Path:
    """Copy what the quickstart needs; the copy has no state of its own yet."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The quickstart's server, running; all its processes are gone when the tests are done."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    first = five_free_ports()
    done = quickstart(checkout, "--keep", "--port", str(first))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        url, port, photo, key = CURL.search(done.stdout).groups()
        headers = {"Authorization": key}
        yield Kept(checkout, done.stdout, url, int(port), (checkout / photo).read_bytes(), headers)
    finally:
        stopped = quickstart(checkout, "--stop")
    assert "Stopped" in stopped.stdout
    names = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [name for name in names if str(checkout) in name]


def png(size: tuple[int, int]) -> bytes:
    """A black image; however large, few bytes."""
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.server
def test_the_known_photos_get_their_known_labels(kept):
    """The quickstart prints Egyptian cat for chelsea and espresso for coffee, with times."""
    assert re.search(r"chelsea  \(\d+ ms\)\n +7[45]\.\d%  Egyptian cat", kept.printed)
    assert re.search(r"coffee  \(\d+ ms\)\n +8[67]\.\d%  espresso", kept.printed)


@pytest.mark.server
def test_bad_bodies_get_a_4xx_and_harm_nobody(kept):
    """Sent all at once with good photos, each bad body gets its own status, each photo its cat."""
    cases = {
        b"": 400,
        kept.photo[:50_000]: 400,  # cut short
        b"{}": 415,
        b"hello, this is a text file\n": 415,
        png((1, 1)): 422,
        png((11_000, 10_000)): 413,  # 110 megapixels
    }
    bodies = [body for bad in cases for body in (bad, kept.photo)]

    with ThreadPoolExecutor(len(bodies)) as clients:
        answers = list(clients.map(kept.send, bodies))

    assert [*cases.values()] == [answer.status_code for answer in answers[::2]]
    assert all(answer.json()["message"] for answer in answers[::2])
    assert {"Egyptian cat"} == {next(iter(answer.json())) for answer in answers[1::2]}


@pytest.mark.server
def test_a_request_without_the_key_is_refused(kept):
    """Token authorization is on."""
    answer = requests.put(kept.url, data=kept.photo, timeout=60)

    assert answer.json()["type"] == "InvalidKeyException"


@pytest.mark.server
def test_a_load_balancer_asks_with_the_inference_key(kept):
    """/ping and gRPC Ping refuse who sends no key; /metrics answers without."""

    def status(port: int, path: str, headers: dict[str, str]) -> int:
        address = f"http://127.0.0.1:{kept.port + port}{path}"
        return requests.get(address, headers=headers, timeout=60).status_code

    assert (status(0, "/ping", kept.headers), status(0, "/ping", {})) == (200, 400)
    assert (status(2, "/metrics", {}), status(2, "/ping", {})) == (200, 404)

    with grpc.insecure_channel(
        f"127.0.0.1:{kept.port + 3}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        ping = channel.unary_unary(f"/{SERVICE}/Ping")
        key = [("authorization", kept.headers["Authorization"])]
        assert b'"Healthy"' in ping(b"", metadata=key, timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            ping(b"", timeout=60)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.server
def test_the_longest_body_is_the_one_that_the_file_says(kept):
    """One byte more than max_request_size is answered 413, and the next request as ever."""
    text = (kept.checkout / "config.properties").read_text()
    longest = int(re.search(r"^max_request_size=(\d+)$", text, re.MULTILINE)[1])

    assert [kept.send(b"x" * size).status_code for size in (longest, longest + 1)] == [415, 413]
    assert kept.send(kept.photo).ok


@pytest.mark.server
def test_nobody_may_register_a_model(kept):
    """The model API is off, also for whoever holds the management key."""
    key = re.findall(r'"key": "(.+)"', (kept.checkout / ".run" / "key_file.json").read_text())[0]
    headers = {"Authorization": f"Bearer {key}"}
    models = f"http://127.0.0.1:{kept.port + 1}/models"

    assert requests.get(models, headers=headers, timeout=60).ok
    refused = requests.post(f"{models}?url=file:///etc/passwd", headers=headers, timeout=60)

    assert refused.status_code == 405


@pytest.mark.server
def test_prometheus_finds_the_metrics_of_server_and_model(kept):
    """Without a key; the quiet log set-up does not silence what passes through the same stream."""
    kept.send(kept.photo)

    def page() -> str:
        return requests.get(f"http://127.0.0.1:{kept.port + 2}/metrics", timeout=60).text

    # The answer may arrive before the line that the worker prints about it.
    until(lambda: 'HandlerTime{ModelName="image_classifier"' in page(), "the model's metrics")
    assert re.search(r'mbh_requests_total\{ModelName="image_classifier".*\} [1-9]', page())
    assert 'ts_inference_requests_total{model_name="image_classifier"' in page()


@pytest.mark.server
def test_a_second_quickstart_beside_a_kept_one_says_what_to_do(kept):
    """One line, a non-zero status, and the kept server stays."""
    second = quickstart(kept.checkout)

    assert second.returncode == 1
    assert "scripts/quickstart --stop" in second.stderr
    assert kept.send(kept.photo).ok


SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if "." not in path.name)


@pytest.fixture(scope="module")
def nothing_installed(tmp_path_factory):
    """A checkout as it was cloned, and a Python that has nothing but its standard library."""
    checkout = tmp_path_factory.mktemp("cloned")
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("benchmarks", "harness", "micro_batch_handler", "scripts", "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=skip)
    python = tmp_path_factory.mktemp("bin") / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return checkout, {"PATH": os.environ["PATH"], "PYTHON": str(python)}


@pytest.mark.parametrize("arguments", [["--help"], ["-x", "-h"]], ids=" ".join)
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_installs_nothing(nothing_installed, script, arguments):
    """What a script does, how long it takes and an example are printed, and nothing is made."""
    checkout, environment = nothing_installed
    before = sorted(checkout.rglob("*"))

    told = subprocess.run(
        [checkout / "scripts" / script, *arguments],
        cwd=checkout.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert f"usage: scripts/{script}" in told
    assert re.search(r"\btakes\b.*\bexamples?:", told, re.IGNORECASE | re.DOTALL)
    assert before == sorted(checkout.rglob("*"))


def test_a_python_that_has_all_for_the_gpu_is_taken_as_it_is(nothing_installed, tmp_path):
    """scripts/test-gpu makes no .venv then; this Python says that it has, and what it is to run."""
    checkout, _ = nothing_installed
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    told = subprocess.run(
        [checkout / "scripts" / "test-gpu", "--only", "tests"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert told.splitlines()[-1] == "-m tests.gpu --only tests"
    assert not (checkout / ".venv").exists()


def test_a_taken_port_is_named(tmp_path):
    """The message has the port and the way out; nothing is packed or started."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = quickstart(copy_checkout(tmp_path), "--port", str(port - 3))

    assert done.returncode == 1
    assert re.search(rf"port {port} .*--port", done.stderr)
    assert not done.stdout


def fake_java(folder: Path, version: str) -> Path:
    """A `java` that tells of itself what the real one does."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    told = f"    java.home = {folder}\\n    java.specification.version = {version}\\n"
    java.write_text(f"#!/bin/sh\nprintf '{told}' >&2\n")
    java.chmod(0o755)
    return folder


def test_a_java_that_is_too_old_is_passed_over(tmp_path, monkeypatch):
    """JAVA_HOME comes first if it fits; Java 8 there gives way to a newer one on PATH."""
    old, new = fake_java(tmp_path / "8", "1.8"), fake_java(tmp_path / "17", "17")
    monkeypatch.setenv("PATH", f"{new / 'bin'}:/usr/bin:/bin")
    command = [sys.executable, ROOT / "scripts" / "_java.py"]

    monkeypatch.setenv("JAVA_HOME", str(old))
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert str(new) == found.strip()


@pytest.mark.server
@pytest.mark.timeout(300)
def test_ray_names_the_cat(tmp_path):
    """`scripts/quickstart --on ray` serves the same archive with Ray, and leaves nothing behind."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    checkout = copy_checkout(tmp_path)

    done = quickstart(checkout, "--on", "ray", "--port", str(five_free_ports()))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Egyptian cat" in done.stdout
    assert "Authorization" not in done.stdout
    left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if str(checkout) in " ".join(line or ())]
