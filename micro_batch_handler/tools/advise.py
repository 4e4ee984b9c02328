"""The advise command: whether this package would help an archive, and what to do.

measure    advising/findings.py    the stages, the memory, TorchServe alone; forecasts
advise     advising/rules.py       one of five advices
print      advising/report.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from micro_batch_handler.tools.advising.findings import find
from micro_batch_handler.tools.advising.report import as_json, as_text
from micro_batch_handler.tools.advising.rules import advise
from micro_batch_handler.tools.checking.check import refuse_absent
from micro_batch_handler.tools.tuning.progress import errors_only
from micro_batch_handler.tools.workbench.flags import (
    above_0,
    count,
    require_tools,
    workbench_parser,
)

__all__ = ["main"]

PROG = "micro-batch-handler advise"

_DESCRIPTION = """\
Say whether this package would help an archive, before anything is changed. Three questions decide:
how long preprocess and postprocess take beside inference, how large the model is, and how many
clients send at once. The command measures the first two on a copy of the archive, in about 20
seconds, and takes the third as --clients. It gives one advice:

  use it as it is       one changed line, or `wrap`
  share_model           one copy of the model for all workers
  more plain workers    TorchServe alone, in more processes
  decode on the GPU     photos are decoded on the cores, and the GPU waits
  nothing to gain       keep what you have

with the figures behind it, the gain that the tuner's model forecasts, and the next command. The
archive's handler may be any of TorchServe; it need not micro-batch yet.
"""

_EPILOG = """\
Run it where the handler will run, with nothing beside it, and with samples like real requests.
docs/will-it-help.md says how the advice is found; `tune` measures settings for real.

examples
  micro-batch-handler advise model_store/cats.mar --sample photos/*.jpg
  micro-batch-handler advise model_store/cats.mar --sample cat.jpg --clients 256 --json
  micro-batch-handler advise handler.py --serialized-file model.pt --sample sample.json
"""

SECONDS = 15.0

CLIENTS = 64
"""As in the benchmarks of this package. Fills two batches of 32."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = _parser().parse_args(argv)
    refuse_absent("--sample", flags.sample)
    require_tools("tqdm")
    with errors_only():
        findings = find(flags)
    advice = advise(findings.options)
    if flags.json:
        print(json.dumps(as_json(findings, advice, flags), indent=2, ensure_ascii=False))
    else:
        print(as_text(findings, advice, flags))
    return 0


def _parser() -> argparse.ArgumentParser:
    source = "an archive (.mar, .tar.gz, .tgz, or its folder), or a handler file (.py)"
    parser = workbench_parser(PROG, _DESCRIPTION, _EPILOG, source)
    add = parser.add_argument
    add(
        "--clients",
        type=count,
        default=CLIENTS,
        metavar="N",
        help=f"clients that send at the same time (default: {CLIENTS})",
    )
    add(
        "--seconds",
        type=above_0,
        default=SECONDS,
        help=f"of measuring, not counting the time to load the model (default: {SECONDS:g})",
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser
