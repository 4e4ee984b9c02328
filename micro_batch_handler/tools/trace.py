"""The trace command: run batches, or take those of a worker, and draw where their time goes.

flags       workbench/flags.py       what to load, and the samples
run         workbench/workbench.py   warm up, then record
write       pages/trace_page.py      trace.json, trace.png, trace.html, with the diagnosis
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from micro_batch_handler.config import AUTO
from micro_batch_handler.errors import ArchiveError, TraceError
from micro_batch_handler.planning.constants import SETTLED_BATCHES
from micro_batch_handler.tools.packing.output import refuse_unwritable
from micro_batch_handler.tools.workbench.flags import (
    count,
    files_of,
    require_tools,
    workbench_parser,
)
from micro_batch_handler.tracing.recording import Trace, TracedBatch
from micro_batch_handler.tracing.trace_json import from_json

__all__ = ["main"]

PROG = "micro-batch-handler trace"

WARMING = 3
"""Batches after which a handler has done what it does only at first."""

_DESCRIPTION = """\
Show where the time of a batch goes: which lane made which call when, what waited for what, and
what to change. Loads the handler in this process as TorchServe's worker would, runs batches of
the sample requests, and writes three files:

  trace.html   a picture of one batch, what holds it up, and how busy each lane was
  trace.png    the picture alone
  trace.json   all batches, for https://ui.perfetto.dev or chrome://tracing

Given a file that a worker wrote (`trace` in its micro_batching: section), it draws that file. With
`share_model` it takes the files of several workers, and shows what they do around one model host.
"""

_EXAMPLES = """\
examples:
  micro-batch-handler trace model_store/cats.mar --sample cat.jpg dog.jpg
  micro-batch-handler trace handler.py --config-file model-config.yaml --sample cat.jpg
  micro-batch-handler trace /tmp/worker.json
  micro-batch-handler trace /tmp/worker-*.json --output trace

How to read it: a lane that is hatched waits. If the lanes of one stage are never hatched and
others often, that stage holds the batch up: more lanes (parallelism) or cheaper calls help. If all
are hatched at the beginning or the end, there are too few micro-batches to overlap: a larger
batchSize helps, or smaller micro-batches.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    options = _parser().parse_args(argv)
    require_tools("matplotlib", "tqdm")
    from micro_batch_handler.tools.pages.trace_page import write

    refuse_unwritable(f"--output {options.output}", options.output)
    others: list[Trace] = []
    if options.source.suffix == ".json":
        trace = _read(options.source)
        others = _read_others(options.others, trace)
    elif options.others:
        raise TraceError("of an archive or a handler there can be only one")
    elif options.sample:
        trace = _run(options)
    else:
        raise TraceError("--sample is missing: give files with the body of one request each")
    try:
        found, files = write(trace, options.output, others)
    except OSError as error:
        raise TraceError(f"--output {options.output} cannot be written: {error}") from error
    print(found)
    for file in files:
        print(file)
    return 0


def _read(path: Path) -> Trace:
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def _read_others(paths: Sequence[Path], first: Trace) -> list[Trace]:
    others = [_read(path) for path in paths]
    for path, trace in zip(paths, others, strict=True):
        if trace.setup != first.setup:
            raise TraceError(
                f"{path} is of another model or other settings; give traces of workers of one model"
            )
    return others


def _run(options: argparse.Namespace) -> Trace:
    from tqdm import tqdm

    from micro_batch_handler.tools.workbench.workbench import Workbench

    batches: list[TracedBatch] = []
    with Workbench(options.source, files_of(options), batch_size=options.batch_size) as bench:
        usual = SETTLED_BATCHES if AUTO in bench.config.micro_batch_size else WARMING
        warm_up = usual if options.warm_up is None else options.warm_up
        # Without a terminal no bar is drawn.
        with tqdm(total=warm_up + options.batches, unit="batch", disable=None) as progress:
            for number in range(warm_up + options.batches):
                progress.set_description("warming up" if number < warm_up else "recording")
                ran = bench.run(options.sample, bench.batch_size)
                if ran.failures:
                    raise ArchiveError(next(iter(ran.failures.values())))
                if number >= warm_up:
                    batches += map(TracedBatch.of, ran.records)
                progress.update()
        return Trace(bench.setup, batches)


def _parser() -> argparse.ArgumentParser:
    source = "an archive, a handler file, or a trace (.json)"
    parser = workbench_parser(PROG, _DESCRIPTION, _EXAMPLES, source)
    add = parser.add_argument
    add(
        "others",
        type=Path,
        nargs="*",
        metavar="TRACE",
        help="traces of other workers of the model, written at the same time; they are drawn "
        "together",
    )
    add("--batches", type=count, default=20, metavar="N", help="batches to record (20)")
    add(
        "--warm-up",
        type=partial(count, least=0),
        metavar="N",
        help=f"batches to run before ({WARMING}; "
        f"{SETTLED_BATCHES} where a size is auto and has to learn)",
    )
    add(
        "--output",
        type=Path,
        default=Path("trace"),
        metavar="FOLDER",
        help="where the files go; older ones are replaced (./trace)",
    )
    return parser
