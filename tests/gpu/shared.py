"""One model for all workers on a real TorchServe: python -m tests.gpu.shared.

Photos: as many workers as there are cores but three, with `share_model` and as BaseHandlers, and
one worker of this package. Then photos that torchvision's nvJPEG decodes on the GPU, in a model
host and in one BaseHandler. Rows of the report, and whether the bars of bars.py are met.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from harness.command import end_on_sigterm
from harness.java import java_home
from harness.load import Load, generator, load_of
from tests.gpu.bars import DECODED, DECODED_PLAIN, ONE, PLAIN, SHARED, verdicts
from tests.gpu.contestants import Contestant, contestants
from tests.gpu.network import Network
from tests.gpu.photos import photo
from tests.gpu.report import SECONDS
from tests.gpu.served import CORES, NO_JAVA, OURS, Row, Stand, failed, note, serving

__all__ = ["main", "members"]

HANDLERS = Path(__file__).parent / "handlers"
PHOTOS = 64
CLOSING_S = 25
"""Of the time that this step has, for the last round and the end of the server."""

PHOTOS_SHARE = 0.65
"""Of the time, for the first part, which loads many more workers."""

NO_TORCHVISION = "not measured: torchvision is not installed"
HOSTED = {"share_model": True, "hosted_stages": ["preprocess", "inference"]}
BARS_TITLE = "One model for all workers: the bars"


def members(cores: int) -> int:
    """Workers that one model is shared by: frontend, clients and model host get three cores."""
    return max(2, cores - 3)


@dataclass
class Part:
    """Handlers that take turns on a server of their own, each with its number of workers."""

    title: str
    alone: Contestant
    rivals: Sequence[tuple[Contestant, int]]
    rows: list[Row] = field(default_factory=list)

    def play(
        self, load: Load, bodies: list[bytes], options: argparse.Namespace, end_s: float
    ) -> bool:
        """Whether all were served and the answers of ours are right; notes the figures."""
        try:
            return self._play(load, bodies, options, end_s)
        except Exception as error:  # the other part is measured all the same
            note(self.title, failed("", error))
            return False

    def _play(
        self, load: Load, bodies: list[bytes], options: argparse.Namespace, end_s: float
    ) -> bool:
        network = Network(
            bodies,
            options.batch,
            gpu=0 if options.device == "cuda" else None,
            tiny=options.tiny,
            seconds=options.seconds,
            alone=self.alone,
        )
        title = f"{self.title}, batches of {options.batch}, {network.dtype}, load by {generator()}"
        good = True
        with serving(options.device) as server:
            for row in Stand(server, network, load, options).play(self.rivals, end_s):
                self.rows.append(row)
                note(title, row)
                ours = str(row["handler"]).startswith("ours")
                good = good and "failed" not in row and not (ours and row["not right"])
        return good


def parts(workers: int, decoding: int, section: dict[str, Any]) -> list[Part]:
    """What is measured.

    Args:
        workers: that share a model, and BaseHandlers beside them.
        decoding: workers beside the model host that decodes.
        section: more of `micro_batching:` for those that share a model.
    """
    (one,) = (each for each in contestants(max(2, CORES // 2)) if each.name == OURS)
    return [
        Part(
            "One model for all workers, photos",
            Contestant("the network alone", "photo_base"),
            [
                (Contestant(PLAIN, "photo_base"), workers),
                (
                    Contestant(
                        SHARED, "shared_photo", {"share_model": True, **section}, folder=HANDLERS
                    ),
                    workers,
                ),
                (replace(one, name=ONE), 1),
            ],
        ),
        Part(
            "One model for all workers, photos decoded by nvJPEG",
            Contestant("the network alone", "nvjpeg_base", folder=HANDLERS),
            [
                (Contestant(DECODED_PLAIN, "nvjpeg_base", folder=HANDLERS), 1),
                (Contestant(DECODED, "nvjpeg", {**HOSTED, **section}, folder=HANDLERS), decoding),
            ],
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, note; 1 if an answer of ours was not right, or somebody was not served."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    on_gpu = options.device == "cuda"
    photos, decoded = parts(options.workers, options.decoding, options.section)
    todo, good = [photos, decoded], True
    if java_home() is None:
        note(photos.title, {"handler": f"none: {NO_JAVA}"})
        todo, good = [], False
    elif on_gpu and find_spec("torchvision") is None:
        note(decoded.title, {"handler": NO_TORCHVISION})
        todo = [photos]
    started_s = time.monotonic()
    bodies = [photo(number) for number in range(PHOTOS)]
    with load_of(bodies, "image/jpeg", 0) as load:
        for place, part in enumerate(todo, 1):
            end_s = started_s + options.budget * (1 if place == len(todo) else PHOTOS_SHARE)
            good = part.play(load, bodies, options, end_s) and good
    for row in verdicts([*photos.rows, *decoded.rows], counts=on_gpu and not options.tiny):
        note(BARS_TITLE, row)
    return int(not good)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.shared",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="where")
    add("--workers", type=int, default=members(CORES), help="that share a model")
    add("--decoding", type=int, default=min(4, CORES), help="workers beside a host that decodes")
    add(
        "--section",
        type=yaml.safe_load,
        default={},
        help="more of micro_batching for those that share a model, as in "
        "'{micro_batch_size: {inference: 32}}'",
    )
    add("--seconds", type=float, default=4, help="of load in each turn")
    add("--rounds", type=int, default=3, help="turns of each handler, if there is time")
    budget_s = float(os.environ.get(SECONDS, "240")) - CLOSING_S
    add("--budget", type=float, default=budget_s, help="seconds that loading and rounds may take")
    add("--batch", type=int, default=64, help="batchSize")
    add("--tiny", action="store_true", help="a network that a CPU can compute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
