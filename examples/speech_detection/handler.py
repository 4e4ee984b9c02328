"""WAV files in, the seconds in which somebody speaks out.

The model has a memory: what it says of a piece of sound depends on the pieces before it. Here the
memory of each row is a row of a tensor that lives as long as the call, never on `self`: lanes and
rows cannot mix. It must stay the one class of this file, which is how TorchServe finds it.
"""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import torch
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

RATE = 16_000  # samples per second
STEP = 512  # new samples that the model takes at a time, 32 ms
CONTEXT = 64  # samples of the step before, which it takes again
STEP_S = STEP / RATE
MOST_S = 120  # seconds of sound in a request

SPEECH, SILENCE = 0.5, 0.35  # scores at which speech begins and ends, as the package has them
PAUSE = 3  # steps; a shorter one does not end speech


class SpeechDetectionHandler(MicroBatchHandler):
    """Finds speech with Silero VAD, which BaseHandler loads as the TorchScript that it is."""

    def preprocess(self, data: list[dict[str, Any]]) -> list[torch.Tensor]:
        """K requests become k tensors of steps, (steps of this row, 64 + 512) each."""
        return [to_steps(samples_of(row)) for row in data]

    def inference(self, data: list[torch.Tensor]) -> list[torch.Tensor]:
        """K tensors of steps become k tensors of scores, 0 to 1, one for each step of the row.

        All rows take a step together. A row that has ended goes on in zeros, whose scores are cut
        off: what comes later cannot change what was said before.
        """
        steps = torch.nn.utils.rnn.pad_sequence(data).to(self.device)  # (longest, k, 576)
        # The package's own forward() keeps the memory in the model, for one caller at a time. The
        # network inside takes it and gives it back, and begins anew where there is none.
        memory = torch.zeros(0, device=self.device)
        scores = []
        with torch.inference_mode():
            for step in steps:
                score, memory = self.model._model(step, memory)  # noqa: SLF001
                scores.append(score)
        of_rows = torch.cat(scores, dim=1)  # (k, longest)
        return [row[: len(mine)] for row, mine in zip(of_rows, data, strict=True)]

    def postprocess(self, data: list[torch.Tensor]) -> list[dict[str, Any]]:
        """K tensors of scores become k answers: the seconds of speech, and the scores."""
        return [{"speech": speech_in(row), "scores": row} for row in (d.tolist() for d in data)]


def samples_of(row: dict[str, Any]) -> torch.Tensor:
    """The sound of a WAV file, (samples,) from -1 to 1; nothing else is decoded here."""
    body = row.get("data") or row.get("body")
    if not isinstance(body, (bytes, bytearray)) or not body:
        raise PredictionException("Send the bytes of a WAV file", 415)
    try:
        with wave.open(io.BytesIO(body)) as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            if form != (1, 2, RATE):
                raise PredictionException(
                    f"The sound has {form[0]} channels of {8 * form[1]} bits at {form[2]} Hz; "
                    f"send 1 of 16 bits at {RATE} Hz",
                    422,
                )
            if not 0 < file.getnframes() <= MOST_S * RATE:
                raise PredictionException(f"Send more than 0 and at most {MOST_S} s of sound", 413)
            sound = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        raise PredictionException("The body is not a WAV file, or is cut short", 415) from None
    return torch.from_numpy(np.frombuffer(sound, dtype="<i2").astype(np.float32) / 32768)


def to_steps(samples: torch.Tensor) -> torch.Tensor:
    """What the model takes: (steps, 64 + 512), each with the end of the one before."""
    missing = -len(samples) % STEP
    padded = torch.nn.functional.pad(samples, (CONTEXT, missing))
    return padded.unfold(0, CONTEXT + STEP, STEP)


def speech_in(scores: list[float]) -> list[tuple[float, float]]:
    """Begin and end of each piece of speech, in seconds."""
    found: list[tuple[float, float]] = []
    begin: int | None = None
    last = 0  # the last step that was no silence
    for step, score in enumerate([*scores, *[0.0] * PAUSE]):
        if score >= SPEECH and begin is None:
            begin = step
        if score >= SILENCE:
            last = step
        elif begin is not None and step - last >= PAUSE:
            found.append((round(begin * STEP_S, 3), round((last + 1) * STEP_S, 3)))
            begin = None
    return found
