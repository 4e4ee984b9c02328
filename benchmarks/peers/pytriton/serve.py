"""Serves the stages with PyTriton: Triton asks this process for each batch.

https://triton-inference-server.github.io/pytriton/latest/binding_models/
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import signal
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

WIDTH = 384
TOP = 5

TENSORS: dict[str, tuple[list[Tensor], list[Tensor]]] = {
    "vector": (
        [Tensor(name="input", dtype=np.float32, shape=(WIDTH,))],
        [Tensor(name="output", dtype=np.float32, shape=(WIDTH,))],
    ),
    "image": (
        # Of object, since NumPy takes zeros off the end of bytes.
        [Tensor(name="input", dtype=object, shape=(1,))],
        [
            Tensor(name="classes", dtype=np.int32, shape=(TOP,)),
            Tensor(name="probabilities", dtype=np.float32, shape=(TOP,)),
        ],
    ),
    "text": (
        [Tensor(name="input", dtype=object, shape=(1,))],
        [Tensor(name="output", dtype=np.float32, shape=(WIDTH,))],
    ),
}
"""What goes in and what comes out, by task."""


class Instance:
    """An instance of the model: a thread, with stages of its own."""

    def __init__(self, task: str, config: dict[str, Any]) -> None:
        from stages import Stages

        self.task = task
        self.stages = Stages()
        self.stages.initialize(SimpleNamespace(model_yaml_config=config))

    @batch
    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """One batch, (k, …) -> (k, …)."""
        rows = [{"body": self._body(row)} for row in inputs["input"]]
        outputs = self.stages.inference(self.stages.preprocess(rows))
        if self.task != "image":
            # Triton makes its JSON of a tensor; lists of numbers would only cost.
            return [outputs.numpy()]
        likely = self.stages.postprocess(outputs)
        return [
            np.array([[int(name) for name in row] for row in likely], np.int32),
            np.array([list(row.values()) for row in likely], np.float32),
        ]

    def _body(self, row: np.ndarray) -> Any:
        if self.task == "image":
            return base64.b64decode(row[0])
        return {"text": row[0].decode()} if self.task == "text" else row


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("stages", "port", "config", "settings"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    config, settings = json.loads(options.config), json.loads(options.settings)
    config["handler"]["threads"] = settings.get("threads", config["handler"]["threads"])
    task = settings["task"]
    sys.path.insert(0, options.stages)
    logging.basicConfig(level=logging.ERROR)
    # PyTriton ends by itself, with all it started, when it is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    triton = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(options.port),
        http_thread_count=settings["http_threads"],
        allow_grpc=False,
        allow_metrics=False,
        # PyTriton keeps a connection, for which Triton would wait longer.
        exit_timeout_secs=2,
    )
    with Triton(config=triton) as server:
        server.bind(
            model_name="stages",
            infer_func=[Instance(task, config) for _ in range(settings["instances"])],
            inputs=TENSORS[task][0],
            outputs=TENSORS[task][1],
            config=ModelConfig(
                max_batch_size=settings["batch"],
                batcher=DynamicBatcher(max_queue_delay_microseconds=settings["wait_us"]),
            ),
        )
        server.serve()


if __name__ == "__main__":
    main()
