"""The flags of the tune command, and what --help says."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from micro_batch_handler.tools.workbench.flags import above_0, count, workbench_parser

__all__ = ["PROG", "tune_parser"]

PROG = "micro-batch-handler tune"

_DESCRIPTION = """\
Find batchSize, maxBatchDelay, micro_batch_size, parallelism, intra_op_threads, workers and whether
they share the model, for a handler on this machine. It measures each stage alone, computes what a
batch would take in hundreds of settings, and runs the best few for real, in turns with the current
settings. It prints model-config.yaml for the most throughput and, if asked, for a latency and a
memory limit, with predicted and measured figures side by side. It says what holds each setting up,
what one copy of the model for all workers costs or saves, and whether the machine was quiet enough.
"""

_EPILOG = """\
what is measured
  Batches run through the handler's own pipeline in this process, and in others beside it for
  several workers, without TorchServe's frontend. A gap between two batches stands for the
  frontend (--gap-ms). Latency is under full load: up to one batch waits while another runs. With
  less load requests wait less; with more (--clients) a queue grows.
  Where model-config.yaml has no minWorkers and maxWorkers, TorchServe starts a worker for each
  GPU, or core, and so does this command; --max-workers 1 keeps to one.
  Workers with a copy of the model each are compared with workers around one copy, in a process of
  its own (share_model). While it tunes, both kinds are loaded. Where model-config.yaml says
  share_model: true, only one more copy is loaded to compare with, unless --max-workers says more.
  Memory is that of the machine, with the process of the model, but not that of a device.
  Run it where the handler will run, with nothing beside it, and with samples like real requests.

examples
  micro-batch-handler tune model_store/cats.mar --sample photos/*.jpg
  micro-batch-handler tune model_store/cats.mar --sample photos/*.jpg --p99-ms 50 \\
      --page cats.html --write model-config.yaml
  micro-batch-handler tune handler.py --config-file model-config.yaml --serialized-file model.pt \\
      --sample sample.json --seconds 300
"""


def tune_parser() -> argparse.ArgumentParser:
    """The parser of all flags."""
    source = "an archive (.mar, .tar.gz, .tgz, or its folder), or a handler file (.py)"
    parser = workbench_parser(PROG, _DESCRIPTION, _EPILOG, source)
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument(
        "--p99-ms",
        type=above_0,
        metavar="MS",
        help="also the most throughput with 99 of 100 requests answered within this",
    )
    wanted.add_argument(
        "--memory-mib",
        type=above_0,
        metavar="MIB",
        help="also the most throughput with all workers together holding at most this memory, of "
        "the machine, not of a device",
    )
    _add_space(parser)
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "--page",
        type=Path,
        metavar="FILE.html",
        help="write the result as a self-contained page, and throughput against latency beside it "
        "as FILE.png",
    )
    out.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the setting for the strictest goal into this model-config.yaml; comments stay",
    )
    return parser


def _add_space(parser: argparse.ArgumentParser) -> None:
    space = parser.add_argument_group("what may be tried")
    space.add_argument(
        "--seconds",
        type=above_0,
        default=60.0,
        help="of tuning, not counting the time to load the handler and the workers (default: 60)",
    )
    space.add_argument(
        "--max-batch",
        type=count,
        default=64,
        metavar="N",
        help="the largest batchSize (default: 64)",
    )
    space.add_argument(
        "--max-lanes",
        type=count,
        metavar="N",
        help="lanes of each stage, whose method must bear so many threads (default: one a core, at "
        "most 8); inference on a GPU, with share_model or with allowed_sizes keeps its own",
    )
    space.add_argument(
        "--max-workers",
        type=count,
        metavar="N",
        help="worker processes, each of which loads the model (default: as many as TorchServe "
        "would start, at least 2 where there is a second core; 1 if the file says share_model)",
    )
    space.add_argument(
        "--max-members",
        type=partial(count, least=0),
        metavar="N",
        help="worker processes that share one copy of the model (default: as many as TorchServe "
        "would start, at least 2 where there is a second core; none with --max-workers 1, unless "
        "the file says share_model); 0 for none",
    )
    space.add_argument(
        "--clients",
        type=count,
        metavar="N",
        help="clients that send at the same time; settings whose batches they cannot fill are left "
        "out (default: batchSize times workers, for each setting)",
    )
    space.add_argument(
        "--gap-ms",
        type=above_0,
        metavar="MS",
        help="the server's own time between two full batches (default: 0.5 and 0.06 a request)",
    )
