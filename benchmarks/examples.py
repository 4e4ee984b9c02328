"""The examples beside the same files on BaseHandler, and in TorchServe's MicroBatching.

    python -m benchmarks.examples sentence_embeddings --rounds 9
    python -m benchmarks.examples image_classifier --micro-batching 1 2 4 8

The archives differ in one line, the import of the base class. One TorchServe serves all, with
PyTorch's default threads. They are loaded in turn, and the first round, after a warm-up, is thrown
away.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.throughput.inputs import photos, sentences
from harness.clients import Sample
from harness.command import about, end_on_sigterm
from harness.examples import ExampleModel, example_module
from harness.load import Load, load_of
from harness.torchserve import TorchServe
from micro_batch_handler.planning.cores import usable_cores

__all__: list[str] = []

OURS = b"from micro_batch_handler import MicroBatchHandler"
BASE = b"from ts.torch_handler.base_handler import BaseHandler as MicroBatchHandler"

STOCK = b"from base import MicroBatchHandler"
STOCK_BASE = """
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler

class MicroBatchHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        lanes = {{"preprocess": 2, "inference": 1, "postprocess": 1}}
        self.handle = MicroBatching(self, parallelism=lanes, micro_batch_size={size})
"""
"""Wired as TorchServe's README says, with two threads that preprocess."""

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


class _Rebased(ExampleModel):
    """The example with another base class.

    Args:
        key: added to the name.
        line: that imports the class, as MicroBatchHandler.
        base: the content of base.py, where the class may be.
    """

    def __init__(
        self, server: TorchServe, case: Case, key: str, line: bytes, base: str = ""
    ) -> None:
        super().__init__(server, case.folder, case.variant)
        self.name += f"_{key}"
        changed = self.archive.with_stem(self.name)
        with zipfile.ZipFile(self.archive) as old, zipfile.ZipFile(changed, "w") as new:
            for item in old.infolist():
                content = old.read(item)
                if item.filename == "handler.py":
                    content = _rebased(content, line)
                new.writestr(item, content)
            new.writestr("base.py", base)
        self.archive = changed
        self._registration = {"model_name": self.name}


def _rebased(handler: bytes, line: bytes) -> bytes:
    if handler.count(OURS) != 1:
        raise SystemExit(f"handler.py must have this line once: {OURS.decode()}")
    return handler.replace(OURS, line)


def _models(server: TorchServe, case: Case, sizes: Sequence[int]) -> dict[str, ExampleModel]:
    """All that are compared; the example first, and then BaseHandler."""
    return {
        "ours": ExampleModel(server, case.folder, case.variant),
        "BaseHandler": _Rebased(server, case, "base", BASE),
        **{
            f"MicroBatching, {size}": _Rebased(
                server, case, f"stock{size}", STOCK, STOCK_BASE.format(size=size)
            )
            for size in sizes
        },
    }


def _measured(
    case: Case, sizes: Sequence[int], rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    """Samples of each, taken in turn."""
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
                # PyTorch's own default, which tests make less.
                environment={"OMP_NUM_THREADS": str(usable_cores())},
            )
        )
        models = {
            name: stack.enter_context(model) for name, model in _models(server, case, sizes).items()
        }
        taken: dict[str, list[Sample]] = {name: [] for name in models}
        place = f"http://127.0.0.1:{server.ports.inference}/predictions"
        for number in range(rounds + 1):
            for name, model in models.items():
                if not number:
                    load.press(f"{place}/{model.name}", WARM_UP_S)
                sample = load.press(f"{place}/{model.name}", seconds)
                # The queue is emptied before the next one's turn.
                model.predict(data=case.bodies()[0], headers={"content-type": case.content_type})
                if number:
                    taken[name].append(sample)
                sys.stderr.write(f"{model.name}, round {number}: {sample.rate:.1f}/s\n")
        return taken


def _rows(name: str, taken: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Rows of the table: medians, and ours to each other's with the lowest and highest round."""
    ours = taken["ours"]
    found = []
    for other, samples in taken.items():
        rate = median(sample.rate for sample in samples)
        ratio = median(sample.rate for sample in ours) / rate
        ratios = [a.rate / b.rate for a, b in zip(ours, samples, strict=True)]
        failed = sum(sample.refused + sample.lost for sample in samples)
        between = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        found.append(f"| {name} | {other} | {rate:.1f} | {between} | {failed} |")
    return found


def main() -> int:
    """Measure the examples that are named, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("examples", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a sample")
    parser.add_argument(
        "--micro-batching",
        nargs="*",
        type=int,
        default=[],
        metavar="SIZE",
        help="also TorchServe's MicroBatching, with each of these micro_batch_size",
    )
    options = parser.parse_args()
    end_on_sigterm()
    machine = about()
    sizes, rounds, seconds = options.micro_batching, options.rounds, options.seconds
    rows = [
        row
        for name in options.examples or CASES
        for row in _rows(name, _measured(CASES[name], sizes, rounds, seconds))
    ]
    lines = [
        "| example | handler | requests/s | ours to it (range of rounds) | not 2xx |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
