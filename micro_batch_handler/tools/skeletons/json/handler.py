"""Four measurements of an iris in, its species out.

A request is a JSON list of four numbers, in cm: [sepal length, sepal width, petal length, petal
width]. An answer is {"species": "setosa", "probability": 0.99}.
"""

import json
from typing import Any

import torch
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

SPECIES = ("setosa", "versicolor", "virginica")


class Handler(MicroBatchHandler):
    """The one class of this file. Its stages run at the same time, each on some rows of a batch.

    BaseHandler's `initialize` loads the class of model.py as `self.model`.
    """

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Read k requests: a tensor (k, 4)."""
        return torch.tensor([measurements(row) for row in data], dtype=torch.float32)

    def inference(self, data: torch.Tensor) -> torch.Tensor:
        """Call the model: scores (k, 3)."""
        with torch.inference_mode():
            scores: torch.Tensor = self.model(data.to(self.device))
        return scores

    def postprocess(self, data: torch.Tensor) -> list[dict[str, Any]]:
        """Make k answers, in the order of the rows."""
        probabilities, best = data.softmax(dim=1).max(dim=1)
        return [
            {"species": SPECIES[number], "probability": probability}
            for number, probability in zip(best.tolist(), probabilities.tolist(), strict=True)
        ]


def measurements(row: dict[str, Any]) -> list[float]:
    """The four numbers of one request; without a content type, as over gRPC, it comes as bytes."""
    body = row.get("body", row.get("data"))
    if isinstance(body, (bytes, bytearray)):
        try:
            body = json.loads(body)
        except ValueError:
            body = None
    if (
        not isinstance(body, list)
        or len(body) != 4
        or not all(isinstance(number, (int, float)) for number in body)
    ):
        # Only this request is answered 400, with this text.
        raise PredictionException("Send a list of four numbers, such as [5.1, 3.5, 1.4, 0.2]", 400)
    return body
