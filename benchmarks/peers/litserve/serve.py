"""LitServe with the stages of a workload, for its own environment; `Peer` says what it takes."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import litserve
import numpy as np
import orjson
import torch
from fastapi import HTTPException, Request, Response
from starlette.datastructures import FormData

__all__ = ["Api", "main"]


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The stages behind LitServe's hooks.

    `decode_request` takes a body apart and `batch` preprocesses, images in threads, as in
    LitServe's own benchmark: tests/parity_fastapi/ls-server.py of its repository.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        settings = options.settings
        super().__init__(
            max_batch_size=settings["max_batch_size"], batch_timeout=settings["batch_timeout"]
        )
        self.options = options

    def setup(self, device: str) -> None:  # noqa: ARG002 - the stages are on the CPU
        """Load the stages, in each worker."""
        sys.path.insert(0, self.options.stages)
        from stages import Stages

        self.stages = Stages()
        self.stages.initialize(SimpleNamespace(model_yaml_config=self.options.config))
        self.pool = ThreadPoolExecutor(self.options.settings["threads"])

    def decode_request(self, request: Request) -> Any:
        """A form with a file -> its bytes; other bodies come decoded."""
        return request["content"].file.read() if isinstance(request, FormData) else request

    def batch(self, inputs: list[Any]) -> Any:
        """Bodies -> a batch."""
        try:
            if isinstance(inputs[0], bytes):
                return _joined(list(self.pool.map(self._one, inputs)))
            return self.stages.preprocess([{"body": body} for body in inputs])
        except Exception as error:
            raise HTTPException(status_code=400, detail=f"cannot preprocess: {error}") from error

    def predict(self, x: Any) -> Any:
        """A batch -> its outputs."""
        return self.stages.inference(x)

    def unbatch(self, output: Any) -> list[Any]:
        """Outputs -> the answers."""
        return self.stages.postprocess(output)

    def encode_response(self, output: Any) -> Response:
        """An answer -> its JSON: FastAPI's own way takes Python apart value by value."""
        return Response(orjson.dumps(output), media_type="application/json")

    def _one(self, body: bytes) -> Any:
        return self.stages.preprocess([{"body": body}])


def _joined(batches: list[Any]) -> Any:
    return np.concatenate(batches) if isinstance(batches[0], np.ndarray) else torch.cat(batches)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--stages", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM, which LitServe knows as Ctrl-C only."""
    options = _options()
    own = os.getpid()

    def stop(*_: object) -> None:
        # Its web servers, which are forks, come here as well.
        raise KeyboardInterrupt if os.getpid() == own else SystemExit

    signal.signal(signal.SIGTERM, stop)
    server = litserve.LitServer(
        Api(options),
        accelerator="cpu",
        workers_per_device=options.settings["workers_per_device"],
        # What its documentation says for over 100 requests per second. 0.2.19 takes no notice:
        # https://github.com/Lightning-AI/LitServe/issues/751
        fast_queue=True,
    )
    try:
        server.run(
            host="127.0.0.1",
            port=options.port,
            num_api_servers=options.settings["num_api_servers"],
            log_level="error",
            generate_client_file=False,
        )
    finally:
        for child in multiprocessing.active_children():
            child.kill()


if __name__ == "__main__":
    main()
