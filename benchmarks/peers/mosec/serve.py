"""mosec with the stages of a workload, for its own environment; `Peer` says what it takes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from types import SimpleNamespace
from typing import Any

__all__ = ["Inference", "Preprocess", "Whole", "main"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--stages", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    return parser.parse_args()


# Workers import this file again, with the same arguments: so mosec passes configuration on.
# https://mosecorg.github.io/mosec/reference/concept.html
OPTIONS = _options()
# mosec reads these when it is imported, and `--port` by itself.
os.environ.update(MOSEC_ADDRESS="127.0.0.1", MOSEC_LOG_LEVEL="error")
sys.path.insert(0, OPTIONS.stages)
# It says so of every batch of images, with its size.
warnings.filterwarnings("ignore", message="IPC data")

import numpy as np  # noqa: E402
import orjson  # noqa: E402
import torch  # noqa: E402
from mosec import DecodingError, Server, ValidationError, Worker  # noqa: E402
from stages import Stages  # noqa: E402


class _Steps(Worker):  # type: ignore[misc]
    """The stages, with the JSON of the first and of the last worker."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.stages.initialize(SimpleNamespace(model_yaml_config=OPTIONS.config))

    def deserialize(self, data: bytes) -> Any:
        """A body as its client sent it -> decoded."""
        if not OPTIONS.settings["json"]:
            return data
        try:
            return orjson.loads(data)
        except ValueError as error:
            raise DecodingError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        """An answer -> its JSON."""
        return orjson.dumps(data)

    def preprocess(self, bodies: list[Any]) -> Any:
        """Bodies -> a batch; what it cannot read is the client's fault, as in mosec's examples."""
        try:
            return self.stages.preprocess([{"body": body} for body in bodies])
        except Exception as error:
            raise ValidationError(f"cannot preprocess: {error}") from error

    def infer(self, batch: Any) -> list[Any]:
        """A batch -> its answers."""
        return self.stages.postprocess(self.stages.inference(batch))


class Preprocess(_Steps):
    """The first of two stages: one request at a time."""

    def forward(self, data: Any) -> Any:
        """A body -> a batch of one."""
        return self.preprocess([data])


class Inference(_Steps):
    """The second: batches of what the first has done."""

    def forward(self, data: list[Any]) -> list[Any]:
        """Batches of one -> as many answers."""
        return self.infer(_joined(data))


class Whole(_Steps):
    """Both in one stage: no way between processes, and batches from the start."""

    def forward(self, data: list[Any]) -> list[Any]:
        """Bodies -> as many answers."""
        return self.infer(self.preprocess(data))


def _joined(batches: list[Any]) -> Any:
    if isinstance(batches[0], np.ndarray):
        return np.concatenate(batches)
    if isinstance(batches[0], torch.Tensor):
        return torch.cat(batches)
    return [row for batch in batches for row in batch]


def main() -> None:
    """Serve until SIGTERM."""
    settings = OPTIONS.settings
    batching = {key: settings[key] for key in ("max_batch_size", "max_wait_time")}
    server = Server()
    if settings["preprocess"]:
        server.append_worker(Preprocess, num=settings["preprocess"])
    last = Inference if settings["preprocess"] else Whole
    server.append_worker(last, num=settings["inference"], **batching)
    server.run()


if __name__ == "__main__":
    main()
