"""The quickstart's steps: pack, serve, wait, ask, stop."""

from __future__ import annotations

import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path

from _client import Client, KeylessClient
from _ports import LOOPBACK, Ports
from _server import KEY_FILE, LOGS, ROOT, RUN, Server, ServerError

EXAMPLE = ROOT / "examples" / "image_classifier"
ARCHIVE = ROOT / "model_store" / "image_classifier.mar"
MODEL = ARCHIVE.stem

sys.path.append(str(EXAMPLE))
from photos import Photo, photos  # noqa: E402 - an example is no package

READY_SECONDS = 180  # a cold disk and a busy machine included
TELL_SECONDS = 10  # between two signs of life where the output is not a terminal


class StepError(Exception):
    """A step failed; the message is one line that says what to do."""


FAILURES = (StepError, ServerError)


NAMES = {"torchserve": "TorchServe", "ray": "Ray Serve"}


def run(on: str, *, keep: bool, first_port: int | None) -> None:
    """All steps; no server stays behind that nobody asked to keep."""
    if Server.running():
        raise StepError("a server of an earlier call still runs: scripts/quickstart --stop")
    config, ports = settings(first_port)
    pack()
    print(f"Starting {NAMES[on]} on {LOOPBACK}:{ports.inference}, logs in {shown(LOGS)}/")
    if on == "ray":
        server, client = Server.start_ray(ports, ARCHIVE), KeylessClient(ports, KEY_FILE)
    else:
        server, client = Server.start(config, ARCHIVE), Client(ports, KEY_FILE)
    kept = False
    try:
        wait_until_ready(server, client)
        sent = [send(client, photo) for photo in photos()]
        print_by_hand(client, sent[0], NAMES[on], keep=keep)
        kept = keep
    finally:
        if not kept:
            server.stop()


def stop() -> None:
    """Stop the server that an earlier call left running."""
    server = Server.running()
    if server:
        server.stop()
    print("Stopped the server" if server else "No server of this quickstart is running")


def pack() -> None:
    """Build the archive where it is missing or older than what goes into it."""
    if subprocess.run([sys.executable, EXAMPLE / "build.py"], check=False).returncode:
        raise StepError("the archive could not be packed; the reason is above")


def settings(first_port: int | None) -> tuple[Path, Ports]:
    """The config.properties to serve with, and its ports, which must be free."""
    config = ROOT / "config.properties"
    ports = Ports.read(config)
    RUN.mkdir(exist_ok=True)
    if first_port is not None:
        ports = Ports.starting_at(first_port)
        ports.write(config, RUN / config.name)
        config = RUN / config.name
    taken = ports.taken()
    if taken:
        raise StepError(
            f"another program listens on port {taken[0]} of {LOOPBACK}: stop it, or serve on "
            "other ports: scripts/quickstart --port 18080"
        )
    return config, ports


def wait_until_ready(server: Server, client: Client) -> None:
    """Wait for the worker, telling so; give up when TorchServe has."""
    started = told = time.monotonic()
    live = sys.stdout.isatty()
    while not client.is_ready(MODEL):
        waited = time.monotonic() - started
        reason = failure(server, waited)
        if reason:
            raise StepError(reason)
        now = time.monotonic()
        if live or now - told > TELL_SECONDS:
            told = now
            line = f"Waiting for a worker to load {MODEL}: {waited:.0f} s"
            print(line, end="\r" if live else "\n", flush=True)
        time.sleep(0.2)
    print(f"Ready after {time.monotonic() - started:.0f} s{' ' * 40}")


def failure(server: Server, waited: float) -> str | None:
    """Why the model will not become ready, if that is known by now."""
    if not server.is_running():
        return f"the server ended while it started; see {shown(LOGS)}/console.log"
    # TorchServe would try again for minutes; a model that failed once fails again.
    log = LOGS / "ts_log.log"
    if log.exists() and "Load model failed" in log.read_text(encoding="utf-8", errors="replace"):
        return f"the worker could not load {MODEL}; see {shown(LOGS)}/model_log.log"
    if waited > READY_SECONDS:
        return f"{MODEL} was not ready after {READY_SECONDS} s; see {shown(LOGS)}/"
    return None


def send(client: Client, photo: Photo) -> Photo:
    """Send one photo and print its labels; a known photo must get its known label."""
    started = time.perf_counter()
    status, answer = client.predict(MODEL, photo.read())
    milliseconds = (time.perf_counter() - started) * 1000
    if status != HTTPStatus.OK:
        raise StepError(f"{photo.name} was answered {status}: {answer}; logs in {shown(LOGS)}/")
    print(f"\n{photo.name}  ({milliseconds:.0f} ms)")
    for label, probability in answer.items():
        print(f"  {probability:6.1%}  {label}")
    best = next(iter(answer))
    if photo.label not in (None, best):
        raise StepError(f"{photo.name} is known to be {photo.label}, the model said {best}")
    return photo


def print_by_hand(client: Client, photo: Photo, name: str, *, keep: bool) -> None:
    """Print the request as a person would send it."""
    curl = f"curl {client.predict_url(MODEL)} -T {shown(photo.path)}"
    key = client.key("inference")
    if key:
        curl += f' -H "Authorization: Bearer {key}"'
    if keep:
        print(f"\n{name} keeps running. By hand:\n  {curl}\nStop it: scripts/quickstart --stop")
    else:
        print(f"\nBy hand, this was:\n  {curl}")
        new_key = ", with a new key" if key else ""
        print(f"{name} stops now; scripts/quickstart --keep leaves it running{new_key}.")


def shown(path: Path) -> Path:
    """The path as one would type it in the repository's root."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
