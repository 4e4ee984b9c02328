"""The network eager and compiled into CUDA graphs: python -m tests.gpu.compiled --help.

First alone, on 1 to 64 rows in float16; then on a real TorchServe, where clients send raw pixels,
so that the host has little to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from harness.command import end_on_sigterm
from harness.java import java_home
from harness.load import load_of
from micro_batch_handler.pipeline.device.compiled_model import CompiledModel
from tests.gpu.contestants import Contestant
from tests.gpu.photos import pixels
from tests.gpu.report import SECONDS
from tests.gpu.served import NO_JAVA, OURS, note
from tests.gpu.shared import PHOTOS, Part

__all__ = ["main"]

CALLS = 20
EDGE = 224
CLOSING_S = 15
ROWS = (1, 4, 16, 64)
TITLE = "The network alone, eager and compiled"


def alone(device: str, options: dict[str, Any], most_s: float, *, tiny: bool) -> bool:
    """Note what calls take, if it is compiled in that time; whether it was."""
    sys.path.append(str(Contestant("", "").folder))
    from photo_stages import resnet

    dtype = torch.float16 if device == "cuda" else torch.float32
    sizes: dict[str, Any] = {"blocks": (1, 1), "width": 8, "classes": 10} if tiny else {}
    network = resnet(**sizes).to(device, dtype)
    compiled = CompiledModel(network, ROWS, options)
    began_s = time.monotonic()
    with torch.inference_mode():
        # Of the kind that preprocess returns.
        with torch.inference_mode(mode=False):
            batches = {rows: torch.rand(rows, 3, EDGE, EDGE).to(device, dtype) for rows in ROWS}
        while not compiled.settled.wait(0.01) and time.monotonic() < began_s + most_s:
            compiled(batches[ROWS[0]])
        title = f"{TITLE}, {str(dtype).removeprefix('torch.')}"
        note(title, {"rows": "compiling took", "compiled, ms": 1000 * (time.monotonic() - began_s)})
        for rows, batch in batches.items():
            eager_ms, compiled_ms = _in_turns_ms(device, [network, compiled], batch)
            row = {"rows": rows, "eager, ms": eager_ms, "compiled, ms": compiled_ms}
            note(title, {**row, "times as fast": eager_ms / compiled_ms})
    return compiled.is_used


def _in_turns_ms(
    device: str, models: list[Callable[[torch.Tensor], torch.Tensor]], batch: torch.Tensor
) -> list[float]:
    """What a call of each takes, the median of many, each waited for."""
    took_ms: list[list[float]] = [[] for _ in models]
    for _ in range(CALLS):
        for model, own in zip(models, took_ms, strict=True):
            began_s = time.perf_counter()
            model(batch)
            if device == "cuda":
                torch.cuda.synchronize()
            own.append(1000 * (time.perf_counter() - began_s))
    return [median(own) for own in took_ms]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, note; 1 if the network was not compiled, or an answer was not right."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    started_s = time.monotonic()
    how = {"mode": "reduce-overhead", "backend": options.backend}
    good = alone(options.device, how, options.budget / 2, tiny=options.tiny)
    raw = {"raw": True}
    pt2 = {"compile": {"enable": True, **how}}
    part = Part(
        "Compiled, raw pixels",
        Contestant("the network alone", "photo_base", settings=raw),
        [
            (Contestant("BaseHandler", "photo_base", settings=raw), 1),
            (Contestant(OURS, "photo", settings=raw), 1),
            (Contestant(f"{OURS}, compiled", "photo", settings=raw, pt2=pt2), 1),
        ],
    )
    if java_home() is None:
        note(part.title, {"handler": f"none: {NO_JAVA}"})
        return 1
    bodies = [pixels(number) for number in range(PHOTOS)]
    with load_of(bodies, "application/octet-stream", 0) as load:
        good = part.play(load, bodies, options, started_s + options.budget) and good
    return int(not good)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.compiled",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="where")
    add("--backend", default="inductor", help="of torch.compile")
    add("--seconds", type=float, default=4, help="of load in each turn")
    add("--rounds", type=int, default=3, help="turns of each handler, if there is time")
    budget_s = float(os.environ.get(SECONDS, "240")) - CLOSING_S
    add("--budget", type=float, default=budget_s, help="seconds that all of it may take")
    add("--batch", type=int, default=64, help="batchSize")
    add("--tiny", action="store_true", help="a network that a CPU can compute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
