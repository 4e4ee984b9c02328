"""The command: simulated machines, emulated handlers, the image example on a real TorchServe."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = ROOT / ".run" / "tuner.json"
ARCHIVE = ROOT / "model_store" / "image_classifier.mar"
EXAMPLE = ROOT / "examples" / "image_classifier"
CONFIG = "model-config.yaml"


def main() -> int:
    """Run the parts that the flags ask for; the exit status is 0."""
    options = _parser().parse_args()
    # Imported late, so that --help needs nothing installed.
    from harness.command import describe

    about = describe()
    told: dict[str, Any] = {**about, **vars(options)}
    told["simulated"] = _simulated(options)
    if options.cases:
        told["known"] = _known(options)
    if options.members_seconds:
        told["members"] = _members(options)
    if options.rounds:
        told["served"] = _served(options)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    shown = ", ".join(f"{key} {value}" for key, value in about.items())
    sys.stdout.write(f"\n{shown}\n{RESULT}\n")
    return 0


def _simulated(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.tuner.simulated import play

    outcomes = []
    for number in range(options.machines):
        outcomes.append(play(options.seed, number))
        last = outcomes[-1]
        sys.stdout.write(
            f"machine {number}: {last.recommended}, {last.against_best:.3f} of the best of "
            f"{last.settings}, {last.tried} run, costs off by {last.fit_off:.1%}\n"
        )
        sys.stdout.flush()
    if outcomes:
        reached = [each.against_best for each in outcomes]
        sys.stdout.write(
            f"{len(outcomes)} simulated machines: throughput median {median(reached):.3f}, worst "
            f"{min(reached):.3f} of the best of all settings; costs off by at most "
            f"{max(each.fit_off for each in outcomes):.1%}; latency limit kept in "
            f"{sum(each.keeps_limit for each in outcomes)}\n"
        )
    return [{**vars(each), "recommended": str(each.recommended)} for each in outcomes]


def _known(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.tuner.known import draw, play

    say = sys.stdout.write
    say(
        "| recommended | fitted costs off by at most | requests/s against the best of all "
        "| limit p99 (ms) | p99 (ms) | spread |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    told = []
    for number in range(options.cases):
        found = play(draw(options.seed, number), options.seconds)
        limited = found.tuning.recommendations[1].measured
        p99_ms = None if limited is None else limited.p99_s * 1000
        say(
            f"| {found.recommended} | {found.fit_off:.1%} | {found.against_best:.3f} "
            f"| {found.p99_limit_s * 1000:.0f} "
            f"| {'none' if p99_ms is None else format(p99_ms, '.0f')} "
            f"| {found.tuning.noise:.1%} |\n"
        )
        sys.stdout.flush()
        told.append(
            {
                "costs_s": found.case.costs_s,
                "recommended": str(found.recommended),
                "best": str(found.best),
                "fit_off": found.fit_off,
                "against_best": found.against_best,
                "p99_limit_ms": found.p99_limit_s * 1000,
                "p99_ms": p99_ms,
                "spread": found.tuning.noise,
            }
        )
    return told


def _members(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.tuner.members import play
    from micro_batch_handler.tools.tuning.counts_compared import about_one_model, about_workers

    found = play(options.members_seconds)
    overall = found.tuning.recommendations[0]
    for told in (about_workers, about_one_model):
        sys.stdout.write(f"{told(found.tuning, overall)}\n")
    for setting, rate in found.rates.items():
        sys.stdout.write(f"{setting}: {rate:,.0f} requests/s\n")
    sys.stdout.write(
        f"recommended of members: {found.recommended.setting}, {found.against_best:.3f} of the "
        f"best of all numbers, {found.best}\n"
    )
    sys.stdout.flush()
    return {
        "recommended": str(found.recommended.setting),
        "against_best": found.against_best,
        "rates": {str(setting): rate for setting, rate in found.rates.items()},
    }


def _served(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.tuner.served import play
    from micro_batch_handler.tools.tune import main as tune

    sys.path.insert(0, str(EXAMPLE))
    from photos import photos  # type: ignore[import-not-found]

    bodies = [photo.path for photo in photos()]
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        config = Path(folder, CONFIG)
        shutil.copy(EXAMPLE / CONFIG, config)
        seconds = str(options.tune_seconds)
        tune(
            [
                str(ARCHIVE),
                "--write",
                str(config),
                "--seconds",
                seconds,
                "--sample",
                *map(str, bodies),
            ]
        )
        tuned = Path(folder, ARCHIVE.name)
        _repack(ARCHIVE, tuned, config)
        archives = {"as it is": ARCHIVE, "tuned": tuned}
        found = play(archives, bodies, options.clients, options.rounds, options.sample_seconds)
    told = {}
    for served in found:
        rates = [sample.rate for sample in served.samples]
        told[served.title] = [sample.figures() for sample in served.samples]
        sys.stdout.write(
            f"{served.title}: {served.rate:.1f} requests/s ({min(rates):.1f} to {max(rates):.1f}), "
            f"p99 {served.p99_ms:.0f} ms\n"
        )
    return told


def _repack(archive: Path, target: Path, config: Path) -> None:
    """The same archive with another model-config.yaml."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            new.writestr(item, config.read_bytes() if item.filename == CONFIG else old.read(item))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare the settings that the tuner finds with the best ones.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--machines", type=int, default=20, help="simulated machines to draw")
    parser.add_argument("--cases", type=int, default=5, help="emulated handlers to draw")
    parser.add_argument("--seconds", type=float, default=60.0, help="to tune each emulated handler")
    parser.add_argument(
        "--members-seconds",
        type=float,
        default=60.0,
        help="to tune emulated workers around one model; 0 for none",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of load on TorchServe; 0 for none"
    )
    parser.add_argument("--sample-seconds", type=float, default=10.0, help="of load in each round")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tune-seconds", type=float, default=120.0, help="for the image example")
    return parser


if __name__ == "__main__":
    sys.exit(main())
