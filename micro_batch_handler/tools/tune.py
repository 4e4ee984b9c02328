"""The tune command: measure a handler, and recommend settings for model-config.yaml.

flags      tuning/flags.py
tune       tuning/handler_tuning.py loads the handler, tuning/tuner.py finds its best settings
print      tuning/report.py
write      pages/tuning_page.py, tuning/yaml_file.py
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from micro_batch_handler import __version__
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import usable_cores
from micro_batch_handler.tools.checking.check import refuse_absent
from micro_batch_handler.tools.packing.model_config import read_model_config
from micro_batch_handler.tools.packing.output import refuse_unwritable
from micro_batch_handler.tools.pages.tuning_page import written
from micro_batch_handler.tools.tuning.flags import PROG, tune_parser
from micro_batch_handler.tools.tuning.handler_tuning import tune_handler
from micro_batch_handler.tools.tuning.progress import errors_only
from micro_batch_handler.tools.tuning.report import keys_of, report
from micro_batch_handler.tools.tuning.result import Tuning
from micro_batch_handler.tools.tuning.yaml_file import update
from micro_batch_handler.tools.workbench.flags import require_tools

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = tune_parser().parse_args(argv)
    _refuse_early(flags)
    with errors_only():
        tuning = tune_handler(flags)
    print(report(tuning))
    if flags.page is not None:
        _write_page(tuning, flags, argv)
    if flags.write is not None:
        _write_keys(tuning, flags.write)
    return 0


def _refuse_early(flags: argparse.Namespace) -> None:
    """Refuse now what would only fail when all is measured."""
    if not flags.sample:
        raise ArchiveError("--sample is missing: give files with the body of one request each")
    refuse_absent("--sample", flags.sample)
    for flag, path in (("--write", flags.write), ("--page", flags.page)):
        if path is not None:
            refuse_unwritable(f"{flag} {path}", path.parent)
    if flags.write is not None:
        if not flags.write.is_file():
            raise ArchiveError(f"--write {flags.write}: there is no such file to change")
        read_model_config(flags.write)
    if flags.page is not None and not flags.page.parent.is_dir():
        raise ArchiveError(f"--page {flags.page}: there is no such folder")
    wanted = {"tqdm": True, "matplotlib": flags.page, "ruamel.yaml": flags.write}
    require_tools(*(name for name, asked in wanted.items() if asked))


def _write_page(tuning: Tuning, flags: argparse.Namespace, argv: Sequence[str]) -> None:
    about = ", ".join(
        [
            f"{PROG} {shlex.join(argv)}",
            f"micro_batch_handler {__version__}",
            f"{usable_cores()} cores",
            datetime.now(timezone.utc).date().isoformat(),
        ]
    )
    for path in written(tuning, f"{flags.source.name}, tuned", about, flags.page):
        print(f"Wrote {path}")


def _write_keys(tuning: Tuning, path: Path) -> None:
    found = tuning.recommendations[-1]
    if found.measured is None:
        raise ArchiveError(f"{path} is left as it is: no setting keeps to {found.goal.title}")
    changed = update(path, keys_of(found))
    print(f"{'Wrote' if changed else 'Nothing to change in'} {path}: {found.goal.title}")
