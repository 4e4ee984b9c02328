"""python -m benchmarks.answers: what wrapped handlers answer, compared with the plain ones."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import queue
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command import end_on_sigterm

if TYPE_CHECKING:
    from harness.kinds import Kind, Told
    from harness.model import Model
    from harness.torchserve import TorchServe

DISTINCT = 50
"""Requests of a kind that differ; each is sent many times."""

BAD_EVERY = 5
BATCH_SIZE = 16
MAX_BATCH_DELAY_MS = 20
TIMEOUT_S = 30.0
"""How long a client waits for an answer; none needs nearly as long."""

MOST_EXAMPLES = 3

VERDICTS = ("right", "wrong", "good that failed", "bad that passed", "broken off beside a bad one")

NOTES = ("whole", "one row at a time", "one at a time")
"""Words of the log lines that say how a handler is called."""

ERROR = re.compile(r"[\w.]+(Error|Exception): ")
"""How the last line of a stack begins."""

_packing = threading.Lock()


@dataclass
class Row:
    """The results of one kind."""

    kind: str
    verdicts: Counter[str] = field(default_factory=Counter)
    note: str = ""
    """What the worker says of how it calls the handler."""
    refused: str = ""
    """Why the archive was not wrapped, where that is right."""
    trouble: str = ""
    """Why nothing could be compared."""
    examples: list[str] = field(default_factory=list)
    """Some of the answers that differ."""

    @property
    def requests(self) -> int:
        """How many were compared."""
        return sum(self.verdicts.values())

    @property
    def flawless(self) -> bool:
        """Whether nothing differs."""
        good = self.verdicts["right"] + self.verdicts["broken off beside a bad one"]
        return not self.trouble and self.requests == good

    def figures(self) -> dict[str, Any]:
        """All of it, for a file."""
        verdicts = {verdict: self.verdicts[verdict] for verdict in VERDICTS}
        return {**vars(self), "verdicts": verdicts}


def main() -> int:
    """Run; gives back 1 if anything differs."""
    options = _parser().parse_args()
    # Imported late, so that --help needs nothing installed.
    from tqdm import tqdm  # type: ignore[import-untyped,import-not-found,unused-ignore]

    from harness.command import describe
    from harness.kinds import KINDS
    from harness.torchserve import TorchServe

    named = {kind.name: kind for kind in KINDS}
    unknown = set(options.kinds) - named.keys()
    if unknown:
        sys.stderr.write(f"no kinds: {', '.join(unknown)}; there are {', '.join(named)}\n")
        return 2
    kinds = [named[name] for name in options.kinds] or KINDS
    each = max(1, options.requests // len(kinds))
    end_on_sigterm()
    with (
        TorchServe() as server,
        tqdm(total=each * len(kinds), unit="request", smoothing=0.1) as bar,
        ThreadPoolExecutor(options.models) as pool,
    ):

        def one(kind: Kind) -> Row:
            row = Row(kind.name)
            try:
                _compare(server, kind, row, each, options, bar.update)
            except Exception as error:
                raised = _raised(server, f"answers-{kind.name}")
                row.trouble = " ".join(f"{type(error).__name__}: {error} {raised}".split())
            bar.update(each - row.requests)
            return row

        rows = list(pool.map(one, kinds))

    about = describe()
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        result = {**about, "settings": settings, "kinds": [row.figures() for row in rows]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        for example in row.examples:
            sys.stdout.write(f"{row.kind}: {example}\n")
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    sys.stdout.write(f"\n{_table(rows)}\n\n{told}\n")
    return 0 if all(row.flawless for row in rows) else 1


def _compare(
    server: TorchServe,
    kind: Kind,
    row: Row,
    requests: int,
    options: argparse.Namespace,
    progress: Callable[[], Any],
) -> None:
    """Ask the plain handler each request alone, and the wrapped one all of them at once."""
    from harness.crowd import together
    from harness.kinds import verdict

    with _packing:
        plain, wrapped = _pack(server, kind, row)
    if row.refused:
        return
    with _served(server, plain, batch_size=1) as model:
        expected = [_ask(server, model, kind, [number])[0] for number in range(DISTINCT)]
    for number, told in enumerate(expected):
        if (told.status in kind.statuses) == (_is_bad(number) and kind.bad is not None):
            raise RuntimeError(f"the plain handler answers request {number} with {told.status}")
    chance = random.Random(f"{options.seed} {kind.name}")  # noqa: S311
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for _ in range(requests):
        todo.put(chance.randrange(DISTINCT))
    counting = threading.Lock()

    def client(_: int) -> None:
        for number, found in _asked(server, model, kind, _drained(todo)):
            said = verdict(kind, expected[number], found)
            with counting:
                row.verdicts[said] += 1
                if said != "right" and len(row.examples) < MOST_EXAMPLES:
                    row.examples.append(f"{said}: {number}: {expected[number]}, found {found}")
                progress()

    with _served(
        server, wrapped, batch_size=BATCH_SIZE, max_batch_delay=MAX_BATCH_DELAY_MS
    ) as model:
        together(options.clients, client)
    row.note = _note(server, wrapped.stem)


def _pack(server: TorchServe, kind: Kind, row: Row) -> tuple[Path, Path]:
    """The archive as users pack it, and the same wrapped; or the row says why it is refused."""
    from harness.archives import pack_plain
    from micro_batch_handler.__main__ import main as command

    name = f"answers-{kind.name}"
    plain = pack_plain(
        name,
        str(kind.file),
        {"micro_batching": dict(kind.section)},
        server.model_store,
        kind.extra_files,
    )
    wrapped = plain.with_name(f"{name}-wrapped.mar")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        failed = command(["wrap", str(plain), "--output", str(wrapped)])
    if failed:
        message = " ".join(said.getvalue().split())
        if not (kind.refused and re.search(kind.refused, message)):
            raise RuntimeError(f"it cannot be wrapped: {message}")
        row.refused = message
    return plain, wrapped


def _served(server: TorchServe, archive: Path, **registration: int) -> Model:
    from harness.model import Packed

    return Packed(server, archive, **registration)


def _drained(todo: queue.SimpleQueue[int]) -> Iterator[int]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield todo.get_nowait()


def _is_bad(number: int) -> bool:
    return number % BAD_EVERY == BAD_EVERY - 1


def _ask(server: TorchServe, model: Model, kind: Kind, numbers: Sequence[int]) -> list[Told]:
    return [told for _, told in _asked(server, model, kind, iter(numbers))]


def _asked(
    server: TorchServe, model: Model, kind: Kind, numbers: Iterator[int]
) -> Iterator[tuple[int, Told]]:
    """Send requests over one connection, one after the other."""
    import requests

    from harness.kinds import Told, told
    from harness.rest import RestClient

    with RestClient(server.ports, TIMEOUT_S) as rest:
        for number in numbers:
            request = kind.ask(number, bad=_is_bad(number))
            try:
                answer = rest.predict(model.name, **request)
            except requests.RequestException as error:
                yield number, Told(0, type(error).__name__)
            else:
                yield number, told(answer, kind.headers, streams=kind.streams)


def _raised(server: TorchServe, name: str) -> str:
    """The last error in the log of a model's workers."""
    said = [
        line.partition(" - ")[2]
        for line in server.log().splitlines()
        if f"-{name}_" in line or f"-{name}-wrapped_" in line
    ]
    errors = [text for text in said if ERROR.match(text)]
    return f"(a worker logged: {errors[-1]})" if errors else ""


def _note(server: TorchServe, name: str) -> str:
    """What a worker says of how it calls the handler."""
    said = [line.partition(" - ")[2] for line in server.log().splitlines() if f"-{name}_" in line]
    # What is indented belongs to the stack of an error.
    notes = [text for text in said if text[:1].strip() and any(note in text for note in NOTES)]
    return "; ".join(dict.fromkeys(notes))


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"| kind | requests | {' | '.join(VERDICTS)} | what the worker says |",
        f"|---|{'---:|' * (1 + len(VERDICTS))}---|",
    ]
    for row in rows:
        trouble = row.trouble and f"**{row.trouble}**"
        refused = row.refused and f"refused: {row.refused}"
        said = (trouble or refused or row.note).replace("|", "\\|")
        lines.append(_line(row.kind, row.requests, row.verdicts, said))
    total: Counter[str] = Counter()
    for row in rows:
        total += row.verdicts
    flawless = sum(row.flawless for row in rows)
    said = f"{flawless} of {len(rows)} kinds without a difference"
    return "\n".join([*lines, _line("total", total.total(), total, said)])


def _line(name: str, requests: int, verdicts: Counter[str], said: str) -> str:
    counts = " | ".join(f"{verdicts[verdict]:,}" for verdict in VERDICTS)
    return f"| {name} | {requests:,} | {counts} | {said} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.answers",
        description="Serve handlers as users write them (harness/handlers/kinds), wrapped, on "
        "a real TorchServe, and compare each answer with the one that the same handler gives "
        "unwrapped to the same request alone: status, JSON body with floats rounded, the headers "
        f"that it sets, for streams all their parts. Of {DISTINCT} distinct requests of each kind "
        f"one in {BAD_EVERY} is bad; clients send them in random order. Ends with a table and "
        "with status 1 if anything differs. Each kind has a worker for itself, whose start takes "
        "longer than some hundred requests.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--requests", type=int, default=20_000, help="in all, shared evenly among the kinds"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these, by the names of their files without .py; all if none is named",
    )
    parser.add_argument("--clients", type=int, default=16, help="threads that ask each model")
    parser.add_argument("--models", type=int, default=4, help="that are served at a time")
    parser.add_argument("--seed", type=int, default=1, help="of the order of requests")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, with some differences"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
