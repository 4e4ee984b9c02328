"""Serves the stages with Ray Serve: each request is prepared by itself, inference is batched.

https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # With 0, Ray keeps to 127.0.0.1 on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_SERVE_DEFAULT_HTTP_HOST": "127.0.0.1",
    # https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
"""Ray reads them while it is imported; its workers inherit them."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""No server here writes an access log. Replicas do not take what `serve.start` is given."""

MEMORY_BYTES = 100_000_000
"""Of Ray's object store, which requests do not use."""


def application(folder: str, config: dict[str, Any], settings: dict[str, Any]) -> Any:
    """The stages as a deployment."""
    from ray import serve

    @serve.deployment(
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 1},
        logging_config=QUIET,
    )
    class Model:
        def __init__(self) -> None:
            sys.path.insert(0, folder)
            import stages

            self.width = getattr(stages, "SIZE", None)
            self.stages = stages.Stages()
            self.stages.initialize(SimpleNamespace(model_yaml_config=config))

        async def __call__(self, request: Request) -> Response:
            body = await request.body()
            try:
                if settings["task"] == "image":
                    row = await asyncio.to_thread(self.stages.preprocess, [{"body": body}])
                else:
                    row = self._row(orjson.loads(body))
            except (KeyError, OSError, TypeError, ValueError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            return Response(await self.infer(row), media_type="application/json")

        @serve.batch(
            max_batch_size=settings["batch"],
            batch_wait_timeout_s=settings["wait_ms"] / 1000,
            max_concurrent_batches=settings["batches"],
        )
        async def infer(self, rows: list[Any]) -> list[bytes]:
            return await asyncio.to_thread(self._infer, rows)

        def _row(self, body: Any) -> Any:
            if settings["task"] == "vector" and len(body) != self.width:
                raise ValueError(f"{len(body)} numbers instead of {self.width}")
            return self.stages.preprocess([{"body": body}])

        def _infer(self, rows: list[Any]) -> list[bytes]:
            answers = self.stages.postprocess(self.stages.inference(_joined(rows)))
            return [orjson.dumps(answer) for answer in answers]

    return Model.bind()


def _joined(rows: list[Any]) -> Any:
    """Batches of one as one batch."""
    if isinstance(rows[0], torch.Tensor):
        return torch.cat(rows)
    if isinstance(rows[0], np.ndarray):
        return np.concatenate(rows)
    return [each for row in rows for each in row]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("stages", "port", "config", "settings"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    config, settings = json.loads(options.config), json.loads(options.settings)
    if "threads" in settings:
        config["handler"]["threads"] = settings["threads"]
    os.environ.update(ENVIRONMENT)
    # Optimized so, a replica hears clients by itself. The documented HAProxy before replicas costs
    # time and listens on all interfaces: so there's one replica, on our port. Serve's own proxy
    # starts all the same, elsewhere, and idles.
    os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = options.port
    os.environ["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(int(options.port) + 1)
    import ray
    from ray import serve

    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=MEMORY_BYTES,
            log_to_driver=False,
            logging_level="WARNING",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        # After ray.init, which sets its own.
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            serve.start(
                http_options={"host": "127.0.0.1", "port": _free_port()},
                logging_config=QUIET,
            )
            serve.run(application(options.stages, config, settings))
            stopped.wait()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
