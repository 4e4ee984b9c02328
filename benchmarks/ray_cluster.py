"""A cluster of three nodes on this machine, one of which is killed under load.

python -m benchmarks.ray_cluster tells what clients saw: how many requests were answered rightly,
which were lost, and how long it took until all replicas were back.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests

from harness.archives import pack
from harness.processes import free_ports
from harness.wait import until

__all__ = ["main"]

NODES = 3
TIMEOUT_S = 30
CLIENTS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if an answer was wrong, or the replicas did not come back."""
    options = _parser().parse_args(arguments)
    from micro_batch_handler.ray.command import use_haproxy

    if not options.python_proxy:
        use_haproxy()
    with tempfile.TemporaryDirectory(prefix="mbh-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder
        settings = {"batchSize": 8, "maxBatchDelay": 5, "minWorkers": NODES, "maxWorkers": NODES}
        archive = pack("echo", "echo", settings, Path(folder))
        seen = _run(archive, options.seconds)
    sys.stdout.write(f"{json.dumps(seen, indent=2)}\n")
    return int(bool(seen["wrong"]) or seen["replicas at the end"] != NODES)


def _run(archive: Path, seconds: float) -> dict[str, Any]:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from micro_batch_handler.ray import deployment

    cluster = Cluster()
    # Nothing but Serve itself on the head; two replicas fit on each of the others.
    nodes = [cluster.add_node(num_cpus=cpus, include_dashboard=False) for cpus in (1, 2, 2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="WARNING")
    try:
        port = free_ports().inference
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        serve.run(deployment(archive, health_check_period_s=1), route_prefix="/")
        load = _Load(f"http://127.0.0.1:{port}/predictions/echo")
        with load:
            time.sleep(seconds / 2)
            before = len(load.outcomes)
            cluster.remove_node(nodes[-1], allow_graceful=False)
            killed_s = time.monotonic()
            until(lambda: _replicas(serve) < NODES, "the end of the replicas there", 60)
            until(lambda: _replicas(serve) == NODES, "three replicas", 60)
            back_s = time.monotonic() - killed_s
            time.sleep(seconds / 2)
        outcomes = Counter(load.outcomes)
        return {
            "right": outcomes.pop("right"),
            "before the node was killed": before,
            "wrong": outcomes.pop("wrong", 0),
            "lost": dict(outcomes),
            "longest wait for an answer, s": round(load.longest_s, 2),
            "all replicas back after, s": round(back_s, 1),
            "replicas at the end": _replicas(serve),
        }
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _replicas(serve: Any) -> int:
    (deployed,) = serve.status().applications["default"].deployments.values()
    return int(deployed.replica_states.get("RUNNING", 0))


class _Load:
    """Clients that ask one after the other, each for its own number, inside a `with` statement."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        self.outcomes: list[str] = []
        self.longest_s = 0.0

    def __enter__(self) -> _Load:  # noqa: PYI034 (typing.Self needs Python 3.11)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        session = requests.Session()
        session.trust_env = False
        while not self._over.is_set():
            number += CLIENTS
            began_s = time.monotonic()
            self.outcomes.append(_told(session.post, self._url, number))
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)


def _told(post: Callable[..., requests.Response], url: str, number: int) -> str:
    try:
        answer = post(url, json={"number": number}, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        return f"{type(error).__name__}: {error}"
    if not answer.ok:
        return str(answer.status_code)
    return "right" if answer.json()["result"] == 3 * number + 1 else "wrong"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=20, help="of load around the kill")
    parser.add_argument(
        "--python-proxy", action="store_true", help="Ray's own proxy in place of HAProxy"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
