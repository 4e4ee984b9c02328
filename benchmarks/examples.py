"""The examples beside the same files on BaseHandler, on one TorchServe.

    python -m benchmarks.examples sentence_embeddings --rounds 9

The second archive differs in one line, the import of its base class. Both are loaded in turn, and
the first round, after a warm-up, is thrown away.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.throughput.inputs import photos, sentences
from harness.clients import Sample
from harness.command import about, end_on_sigterm
from harness.examples import ExampleModel, example_module
from harness.load import Load, load_of
from harness.torchserve import TorchServe

__all__: list[str] = []

OURS = b"from micro_batch_handler import MicroBatchHandler"
BASE = b"from ts.torch_handler.base_handler import BaseHandler as MicroBatchHandler"

WARM_UP_S = 12
"""Of load on each before the first round: `auto` learns then, and a frontend compiles."""


def _questions() -> list[bytes]:
    """Questions with 4 to 28 sentences each."""
    chosen = random.Random(0)  # noqa: S311 - the same in every run
    texts = [json.loads(body)["text"] for body in sentences()]
    return [
        json.dumps(
            {
                "question": chosen.choice(texts),
                "sentences": chosen.choices(texts, k=4 * (n % 7 + 1)),
            }
        ).encode()
        for n in range(14)
    ]


def _sounds() -> list[bytes]:
    """Pieces of a reading, 2 to 6 seconds long."""
    speech: Callable[[float, float], bytes] = example_module("speech_detection", "sounds").speech
    return [speech(0.3 * n, 2 + n % 5) for n in range(10)]


@dataclass(frozen=True)
class Case:
    """The requests for an example."""

    folder: str
    variant: str
    bodies: Callable[[], list[bytes]]
    content_type: str
    clients: int = 32


CASES = {
    "sentence_embeddings": Case("sentence_embeddings", "", sentences, "application/json"),
    "speech_detection": Case("speech_detection", "", _sounds, "audio/wav"),
    "fan_out": Case("fan_out", "", _questions, "application/json", 16),
    "image_classifier": Case("image_classifier", "", photos, "image/jpeg"),
    "image_classifier_torchscript": Case("image_classifier", "torchscript", photos, "image/jpeg"),
}


class _OnBaseHandler(ExampleModel):
    """The example with one import changed."""

    def __init__(self, server: TorchServe, folder: str, variant: str) -> None:
        super().__init__(server, folder, variant)
        self.name += "_base"
        changed = self.archive.with_stem(self.name)
        with zipfile.ZipFile(self.archive) as old, zipfile.ZipFile(changed, "w") as new:
            for item in old.infolist():
                content = old.read(item)
                if item.filename == "handler.py":
                    content = _changed(content)
                new.writestr(item, content)
        self.archive.unlink()
        self.archive = changed
        self._registration = {"model_name": self.name}


def _changed(handler: bytes) -> bytes:
    if handler.count(OURS) != 1:
        raise SystemExit(f"handler.py must have this line once: {OURS.decode()}")
    return handler.replace(OURS, BASE)


def _measured(case: Case, rounds: int, seconds: float) -> tuple[list[Sample], list[Sample]]:
    """Samples of the example, and of the same on BaseHandler, taken in turn."""
    with ExitStack() as stack:
        load: Load = stack.enter_context(load_of(case.bodies(), case.content_type, case.clients))
        server = stack.enter_context(
            TorchServe(
                shipped=True,
                properties={
                    "enable_model_api": "true",
                    "disable_token_authorization": "true",
                    "decode_input_request": "true",
                },
            )
        )
        models = [
            stack.enter_context(kind(server, case.folder, case.variant))
            for kind in (_OnBaseHandler, ExampleModel)
        ]
        taken: list[list[Sample]] = [[], []]
        place = f"http://127.0.0.1:{server.ports.inference}/predictions"
        for number in range(rounds + 1):
            for model, samples in zip(models, taken, strict=True):
                if not number:
                    load.press(f"{place}/{model.name}", WARM_UP_S)
                sample = load.press(f"{place}/{model.name}", seconds)
                # The queue is emptied before the other's turn.
                model.predict(data=case.bodies()[0], headers={"content-type": case.content_type})
                if number:
                    samples.append(sample)
                sys.stderr.write(f"{model.name}, round {number}: {sample.rate:.1f}/s\n")
        base, ours = taken
    return ours, base


def _row(name: str, ours: Sequence[Sample], base: Sequence[Sample]) -> str:
    """A row of the table: medians, and the ratio with the lowest and highest of a round."""
    rates = [median(sample.rate for sample in samples) for samples in (ours, base)]
    ratios = [a.rate / b.rate for a, b in zip(ours, base, strict=True)]
    failed = sum(sample.refused + sample.lost for sample in (*ours, *base))
    return (
        f"| {name} | {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {failed} |"
    )


def main() -> int:
    """Measure the examples that are named, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("examples", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a sample")
    options = parser.parse_args()
    end_on_sigterm()
    machine = about()
    rows = [
        _row(name, *_measured(CASES[name], options.rounds, options.seconds))
        for name in options.examples or CASES
    ]
    lines = [
        "| example | requests/s | on BaseHandler | ratio (range of rounds) | not 2xx |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
