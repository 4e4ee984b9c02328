"""What all kinds of handlers answer on Ray Serve, compared with what each answers alone.

python -m benchmarks.ray_answers takes five minutes. Each kind is wrapped and deployed, some
of them in one application; clients at once send requests of which a fifth are bad. Then the
examples answer the same requests as on TorchServe.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.alone import answers_alone, folder_of
from harness.archives import pack_plain
from harness.command import end_on_sigterm
from harness.crowd import together
from harness.examples import ExampleModel, example_module
from harness.kinds import KINDS, Kind, Told, alike, body_of, told, verdict
from harness.ray_serve import RayServe
from harness.settings import ROOT
from harness.torchserve import TorchServe
from micro_batch_handler.__main__ import main as command

__all__ = ["main"]

CLIENTS = 16
BAD_EVERY = 5
TOGETHER = 6
"""Kinds in one application: each is a process with a model."""

REFUSED = "refused when it is packed"
REFUSED_BY_RAY = "refused when it is deployed"
FINE = {"right", "broken off beside a bad one", REFUSED, REFUSED_BY_RAY}

ONLY_ON_TORCHSERVE = {"thread_signal": "sets the handler of a signal"}
"""Kinds that must be refused when they are deployed, and a part of the message."""

EXAMPLES = ("image_classifier", "sentence_embeddings", "speech_detection", "fan_out")

SETTINGS = {"batchSize": 8, "maxBatchDelay": 20, "maxWorkers": 1, "deviceType": "cpu"}


@dataclass
class Row:
    """What became of a kind."""

    kind: Kind
    verdicts: Counter[str] = field(default_factory=Counter)
    trouble: str = ""

    @property
    def is_right(self) -> bool:
        """Whether every answer is, or its archive is refused as it has to be."""
        return not (self.verdicts.keys() - FINE or self.trouble)

    def __str__(self) -> str:
        told = ", ".join(f"{number or ''} {said}" for said, number in self.verdicts.items())
        return f"{self.kind.name:<22} {'' if self.is_right else 'NOT RIGHT: '}{told}{self.trouble}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if an answer is not right."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    kinds = [each for each in KINDS if each.name in (options.kinds or [one.name for one in KINDS])]
    rows = []
    for start in range(0, len(kinds), TOGETHER):
        with tempfile.TemporaryDirectory() as folder:
            for row in _group(kinds[start : start + TOGETHER], Path(folder), options.requests):
                rows.append(row)
                sys.stdout.write(f"{row}\n")
                sys.stdout.flush()
    right = sum(row.is_right for row in rows)
    sys.stdout.write(f"{right} of {len(rows)} kinds without a difference\n")
    differences = [] if options.kinds else _examples()
    return int(right < len(rows) or bool(differences))


def _examples() -> list[str]:
    """The examples' requests that are answered otherwise than on TorchServe."""
    different = []
    with TorchServe() as server, ExitStack() as stack:
        models = [stack.enter_context(ExampleModel(server, name)) for name in EXAMPLES]
        archives = [ROOT / "model_store" / model.archive.name for model in models]
        with RayServe(archives, "--replicas", "1", "--cpus", "8", "--quiet") as served:
            for model, requests in zip(models, _requests(), strict=True):
                for number, request in enumerate(requests):
                    with served.rest() as rest:
                        found = rest.predict(model.name, **request)
                    due = model.predict(**request)
                    same = found.status_code == due.status_code and alike(
                        body_of(found.content), body_of(due.content)
                    )
                    told = f"example {model.name}, request {number}: {due.status_code}"
                    sys.stdout.write(f"{told}, {'the same' if same else 'NOT THE SAME'}\n")
                    different += [] if same else [told]
    return different


def _requests() -> Iterator[list[dict[str, Any]]]:
    """Good and bad ones, for each example."""
    photos = example_module("image_classifier", "photos").photos()
    yield [*({"data": each.read()} for each in photos), {"data": b"no photo"}, {"data": b""}]
    yield [{"json": {"text": "It is sunny."}}, {"data": "as text"}, {"json": {"words": "none"}}]
    speech = example_module("speech_detection", "sounds").speech()
    yield [{"data": speech}, {"data": speech[:30]}, {"data": b"sound"}]
    asked = {"question": "Is it sunny?", "sentences": ["It rains.", "The sun shines."]}
    yield [{"json": asked}, {"json": {**asked, "sentences": []}}]


def _group(kinds: Sequence[Kind], folder: Path, requests: int) -> list[Row]:
    rows = [Row(kind) for kind in kinds]
    archives = {}
    for row in rows:
        kind = row.kind
        settings = {**SETTINGS, "micro_batching": dict(kind.section)}
        archive = pack_plain(kind.name, str(kind.file), settings, folder, kind.extra_files)
        if command(["wrap", str(archive)]):
            row.trouble = "" if kind.refused else "it cannot be wrapped"
            row.verdicts[REFUSED] = 0
        elif kind.name in ONLY_ON_TORCHSERVE:
            row.trouble = _trouble_with_refusal(archive, ONLY_ON_TORCHSERVE[kind.name])
            row.verdicts[REFUSED_BY_RAY] = 0
        else:
            archives[kind.name] = archive
    if not archives:
        return rows
    with RayServe([*archives.values()], "--cpus", str(len(kinds) + 2), "--quiet") as served:
        for row in rows:
            if row.kind.name in archives:
                _compare(served, row, folder / f"alone-{row.kind.name}", requests)
    return rows


def _trouble_with_refusal(archive: Path, why: str) -> str:
    """What is wrong with the refusal of an archive; empty if nothing is."""
    try:
        with RayServe([archive]):
            return "it is served"
    except TimeoutError as error:
        return "" if why in str(error) else f"another message: {error}"


def _compare(served: RayServe, row: Row, folder: Path, requests: int) -> None:
    kind = row.kind
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in range(requests)}
    folder.mkdir()
    expected = answers_alone(folder_of(kind, folder, kind.file.name), asked, kind.headers)

    def client(number: int) -> list[tuple[int, Told]]:
        with served.rest() as rest:
            return [
                (n, told(rest.predict(kind.name, **asked[n]), kind.headers, streams=kind.streams))
                for n in asked
                if n % CLIENTS == number
            ]

    for pairs in together(CLIENTS, client):
        row.verdicts.update(verdict(kind, expected[n], found) for n, found in pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kinds", nargs="+", default=[], metavar="NAME", help="all, if none")
    parser.add_argument("--requests", type=int, default=128, help="of each kind")
    return parser


if __name__ == "__main__":
    sys.exit(main())
