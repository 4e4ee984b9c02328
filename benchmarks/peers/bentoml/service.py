"""The stages as a BentoML service: one batchable API, checked by types.

https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html
"""

# No postponed annotations: BentoML reads the types of the API.
import io
import json
import os
import sys
from types import SimpleNamespace
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument
from bentoml.validators import DType, Shape
from PIL import Image
from pydantic import BeforeValidator, WithJsonSchema
from typing_extensions import TypedDict

sys.path.insert(0, os.environ["PEER_STAGES"])

import stages

CONFIG = json.loads(os.environ["PEER_CONFIG"])
SETTINGS = json.loads(os.environ["PEER_SETTINGS"])
if "threads" in SETTINGS:
    CONFIG["handler"]["threads"] = SETTINGS["threads"]
TASK = SETTINGS["task"]
BATCH = {
    "batchable": True,
    "max_batch_size": SETTINGS["batch"],
    "max_latency_ms": SETTINGS["latency_ms"],
}


class Sentence(TypedDict):
    """A body of the text workload."""

    text: str


def _jpeg(body: bytes) -> list[bytes]:
    """A body of the image workload as a batch of one; only its head is read."""
    try:
        Image.open(io.BytesIO(body))
    except OSError as error:
        raise ValueError(str(error)) from error
    return [body]


# As a root input of type "file" it is the body itself, not JSON.
JPEGs = Annotated[list[bytes], BeforeValidator(_jpeg), WithJsonSchema({"type": "file"})]
Vectors = Annotated[np.ndarray, Shape((1, getattr(stages, "SIZE", 1))), DType("float32")]
Rows = Vectors if TASK == "vector" else list[Sentence]


@bentoml.service(
    workers=SETTINGS["workers"],
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Model:
    """The three methods."""

    def __init__(self) -> None:
        self.stages = stages.Stages()
        self.stages.initialize(SimpleNamespace(model_yaml_config=CONFIG))

    if TASK == "image":

        @bentoml.api(**BATCH)
        def predict(self, rows: JPEGs, /) -> list[dict[str, float]]:
            """K JPEGs -> k answers."""
            return self._answers(rows)

    else:

        @bentoml.api(**BATCH)
        def predict(self, rows: Rows) -> list[list[float]]:
            """K vectors or sentences -> k answers."""
            return self._answers(rows)

    def _answers(self, rows: Any) -> Any:
        try:
            batch = self.stages.preprocess([{"body": row} for row in rows])
        except OSError as error:
            # https://docs.bentoml.com/en/latest/build-with-bentoml/error-handling.html
            raise InvalidArgument(str(error)) from error
        return self.stages.postprocess(self.stages.inference(batch))
