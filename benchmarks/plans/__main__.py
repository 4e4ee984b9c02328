"""The command: plays each case in turn, writes .run/plans.json, prints a table."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

BEHIND = 1.05

RESULT = Path(__file__).parents[2] / ".run" / "plans.json"


def main() -> int:
    """Run; gives back 0."""
    options = _parser().parse_args()
    if options.simulated:
        return _simulate(options.simulated, many_cores=options.many_cores)
    # Imported late, so that --help needs nothing installed.
    from benchmarks.plans.cases import draw
    from benchmarks.plans.rounds import Result, play
    from harness.command import describe

    about = describe()
    results: list[Result] = []
    say = sys.stdout.write
    say(
        "| rows | lanes | whole ms | quarters ms | best ms | auto ms | auto / best "
        "| auto / whole | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for number in range(options.cases):
        case = draw(options.seed, number)
        result = play(case, options.warm_up, options.rounds)
        results.append(result)
        lanes = "/".join(str(count) for count in vars(case.lanes).values())
        say(
            f"| {case.rows} | {lanes} | {result.ms('whole'):.1f} | {result.ms('quarters'):.1f} | "
            f"{result.ms(result.best):.1f} ({result.best}) | {result.ms('auto'):.1f} | "
            f"{result.against_best:.3f} | {result.against_whole:.3f} | "
            f"{'one lock' if case.locked else ''} |\n"
        )
        sys.stdout.flush()
    against_best = [each.against_best for each in results]
    summary = {
        "auto_against_best": {"median": median(against_best), "worst": max(against_best)},
        "auto_against_whole": {"worst": max(each.against_whole for each in results)},
    }
    whole = {**about, **vars(options), **summary, "cases": [each.figures() for each in results]}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    say(
        f"\nauto against the best plan: median {median(against_best):.3f}, "
        f"worst {max(against_best):.3f}; against whole: worst "
        f"{summary['auto_against_whole']['worst']:.3f}\n\n{told}\n{RESULT}\n"
    )
    return 0


def _simulate(cases: int, *, many_cores: bool) -> int:
    from tqdm import tqdm

    from benchmarks.plans.simulated import play

    with ProcessPoolExecutor() as pool:
        played = pool.map(partial(play, many_cores=many_cores), range(cases))
        found = list(tqdm(played, total=cases, unit="case"))
    to_best = [each.to_best for each in found]
    sys.stdout.write(
        f"{cases} cases in simulated time, after 300 batches: to the best plan median "
        f"{median(to_best):.3f}, worst {max(to_best):.3f}, more than 5 % behind "
        f"{sum(each > BEHIND for each in to_best)}; to whole batches, trials included, worst "
        f"{max(each.to_whole for each in found):.3f}\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare the planner's plans with the best there are, on emulated stages.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cases", type=int, default=20, help="stages that are drawn")
    parser.add_argument("--rounds", type=int, default=21, help="batches of each plan in each case")
    parser.add_argument("--warm-up", type=int, default=60, help="batches for the planner to learn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--simulated", type=int, metavar="N", help="so many cases in simulated time instead"
    )
    parser.add_argument(
        "--many-cores",
        action="store_true",
        help="with --simulated: 16 cores, and stages that hold a lock for some of their time",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
