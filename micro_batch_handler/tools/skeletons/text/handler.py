"""A text in, its language out: English, German or French.

A request's body is the text, in UTF-8. An answer is {"language": "English", "probability": 0.99}.
"""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

LANGUAGES = ("English", "German", "French")

MOST_LETTERS = 1000  # the rest of a longer text is not read


class Handler(MicroBatchHandler):
    """The one class of this file. Its stages run at the same time, each on some rows of a batch.

    BaseHandler's `initialize` loads the class of model.py as `self.model`.
    """

    def preprocess(self, data: list[dict[str, Any]]) -> list[torch.Tensor]:
        """Read k requests: k tensors with the numbers of their letters, each as long as it is."""
        return [torch.tensor(letters(row)) for row in data]

    def inference(self, data: list[torch.Tensor]) -> torch.Tensor:
        """Call the model: scores (k, 3).

        Rows are padded here, to the longest of this call, which has only some rows of the batch.
        """
        padded = pad_sequence(data, batch_first=True)
        with torch.inference_mode():
            scores: torch.Tensor = self.model(padded.to(self.device))
        return scores

    def postprocess(self, data: torch.Tensor) -> list[dict[str, Any]]:
        """Make k answers, in the order of the rows."""
        probabilities, best = data.softmax(dim=1).max(dim=1)
        return [
            {"language": LANGUAGES[number], "probability": probability}
            for number, probability in zip(best.tolist(), probabilities.tolist(), strict=True)
        ]


def letters(row: dict[str, Any]) -> list[int]:
    """The numbers of one request's letters, from 1 for a to 26 for z; others are left out."""
    body = row.get("body", row.get("data"))
    if isinstance(body, (bytes, bytearray)):
        try:
            body = body.decode()
        except UnicodeDecodeError:
            # Only this request is answered 400, with this text.
            raise PredictionException("The body is not UTF-8 text", 400) from None
    if not isinstance(body, str):
        raise PredictionException("Send a text, not JSON", 415)
    found = [ord(letter) - ord("a") + 1 for letter in body.lower() if "a" <= letter <= "z"]
    if not found:
        raise PredictionException("The text has no letters from a to z", 400)
    return found[:MOST_LETTERS]
