"""Many handlers with one model for four workers: each answer as the handler gives it alone."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sharing.part import Found, say, table
from harness.alone import answers_alone, folder_of
from harness.archives import pack_plain
from harness.brought import CASES, HEADERS, Case, archive_of
from harness.crowd import together
from harness.grpc_client import GrpcClient
from harness.kinds import KINDS, OK, Kind, Told, alike, body_of, told, verdict
from harness.model import Model, Packed
from harness.service import quiet
from harness.torchserve import TorchServe
from micro_batch_handler.__main__ import main as command

__all__ = ["answers"]

MEMBERS = 4
CLIENTS = 16
DISTINCT = 32
TURNS = 3
BAD_EVERY = 5
VERDICTS = ("right", "wrong", "good that failed", "bad that passed", "broken off beside a bad one")
REFUSED = re.compile(r"ConfigError: (.*share_model.*)")


@dataclass
class Row:
    """What one handler did."""

    handler: str
    rest: Counter[str] = field(default_factory=Counter)
    grpc: Counter[str] = field(default_factory=Counter)
    refused: str = ""
    trouble: str = ""
    examples: list[str] = field(default_factory=list)

    @property
    def flawless(self) -> bool:
        """Whether nothing differs."""
        found = self.rest + self.grpc
        # What needs a stream that has begun cannot be taken back.
        return not self.trouble and not found - Counter(
            {each: found[each] for each in ("right", "broken off beside a bad one")}
        )


def answers(names: list[str]) -> Found:
    """All handlers of harness/handlers/kinds and of harness/brought.py, or some."""
    rows = []
    todo: dict[str, Callable[[TorchServe, Row, Path], None]] = {
        **{kind.name: partial(_compare, kind) for kind in KINDS},
        **{case.handler: partial(_compare_brought, case) for case in CASES},
    }
    with TorchServe() as server:
        for name in names or todo:
            row = Row(name)
            try:
                with tempfile.TemporaryDirectory(prefix="sharing-") as folder, quiet():
                    todo[name](server, row, Path(folder))
            except Exception as error:
                row.trouble = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            rows.append(row)
            result = row.trouble or row.refused or f"{dict(row.rest)} {dict(row.grpc)}"
            say(f"answers: {row.handler}: {result}")
    cells = [
        (
            row.handler,
            *(row.rest[each] or "" for each in VERDICTS),
            row.grpc["right"] or "",
            row.grpc["wrong"] or "",
            row.trouble or (f"refused: {row.refused}" if row.refused else ""),
        )
        for row in rows
    ]
    head = ("handler", *VERDICTS, "gRPC: right", "gRPC: wrong", "")
    wrong = [
        f"{row.handler}: {row.trouble or row.examples[:2]}" for row in rows if not row.flawless
    ]
    text = table(head, cells)
    refused = sum(bool(row.refused) for row in rows)
    text += f"\n\n{len(rows) - len(wrong)} of {len(rows)} without a difference, "
    text += f"{refused} of them refused when they load."
    return Found("answers", text, {row.handler: vars(row) for row in rows}, wrong)


def _compare(kind: Kind, server: TorchServe, row: Row, folder: Path) -> None:
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in range(DISTINCT)}
    expected = answers_alone(folder_of(kind, folder, kind.file.name), asked, kind.headers)
    section = {**kind.section, "share_model": True}
    archive = pack_plain(
        f"sharing-{kind.name}",
        str(kind.file),
        {"micro_batching": section},
        server.model_store,
        kind.extra_files,
    )
    _serve(server, archive, kind, asked, expected, row)


def _compare_brought(case: Case, server: TorchServe, row: Row, folder: Path) -> None:
    kind = Kind(case.handler, case.ask, headers=HEADERS)
    asked = {number: case.ask(number) for number in range(CLIENTS)}
    archive = archive_of(case, server.model_store, folder)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder / "plain")
    expected = answers_alone(folder / "plain", asked, kind.headers)
    _share(archive)
    _serve(server, archive, kind, asked, expected, row)


def _share(archive: Path) -> None:
    """Set share_model in the model-config.yaml of an archive."""
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    (name,) = (each for each in files if each.endswith("model-config.yaml"))
    config = yaml.safe_load(files[name])
    config["micro_batching"]["share_model"] = True
    files[name] = yaml.safe_dump(config).encode()
    with zipfile.ZipFile(archive, "w") as packed:
        for each, content in files.items():
            packed.writestr(each, content)


def _serve(
    server: TorchServe,
    archive: Path,
    kind: Kind,
    asked: Mapping[int, dict[str, Any]],
    expected: Mapping[int, Told],
    row: Row,
) -> None:
    """Wrap, register, ask and compare."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        failed = command(["wrap", str(archive)])
    if failed:
        message = " ".join(said.getvalue().split())
        if "share_model" not in message and not (kind.refused and re.search(kind.refused, message)):
            raise RuntimeError(f"it cannot be wrapped: {message}")
        row.refused = message.partition(f"{archive.name}: ")[2] or message
        return
    start = server.log_sizes()["model_log.log"]
    try:
        with Packed(
            server, archive, initial_workers=MEMBERS, batch_size=8, max_batch_delay=20
        ) as model:
            _ask(model, kind, asked, expected, row)
    except RuntimeError as error:
        found = REFUSED.search(server.log(start=start))
        if found is None or "cannot register" not in str(error):
            raise
        row.refused = found[1]


def _ask(
    model: Model,
    kind: Kind,
    asked: Mapping[int, dict[str, Any]],
    expected: Mapping[int, Told],
    row: Row,
) -> None:
    def client(who: int) -> list[tuple[int, Told]]:
        mine = [n for n in asked if n % CLIENTS == who] * TURNS
        return [
            (n, told(model.predict(**asked[n]), kind.headers, streams=kind.streams)) for n in mine
        ]

    for n, found in _flat(together(CLIENTS, client)):
        said = verdict(kind, expected[n], found)
        row.rest[said] += 1
        if said not in ("right", "broken off beside a bad one"):
            row.examples.append(f"{said}: {n}: {expected[n]}, found {found}")
    if kind.streams:
        return

    def grpc_client(who: int) -> list[tuple[int, Told]]:
        # Over gRPC a body comes as bytes, without headers.
        mine = [n for n in asked if n % CLIENTS == who and set(asked[n]) == {"data"}]
        return [
            (n, Told(OK, body_of(grpc.predict(model.name, body=asked[n]["data"])))) for n in mine
        ]

    with GrpcClient(model.server.ports) as grpc:
        for n, found in _flat(together(CLIENTS, grpc_client)):
            if expected[n].status == OK:
                right = alike(expected[n].body, found.body)
                row.grpc["right" if right else "wrong"] += 1
                if not right:
                    row.examples.append(f"gRPC: {n}: {expected[n]}, found {found}")


def _flat(lists: list[list[tuple[int, Told]]]) -> Iterator[tuple[int, Told]]:
    for each in lists:
        yield from each
