"""The start of the process that checks an archive: its tools are brought in, and run.py runs.

    python process.py <model folder> <sample file> … <folder for the report> <seconds>

Runs with the archive's root as its folder and on its import path, so `micro_batch_handler` here is
the one in the archive, which has no tools. Those that are needed come from this folder, by path.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["bring_tools"]

_TOOLS = ("worker", "requests", "answers", "ways", "alone", "batches", "report", "run")
"""The files that are needed, each after those that it imports."""


def bring_tools() -> None:
    """Let files of this folder be imported by their full names, beside the archive's package.

    What is in `sys.modules` is taken without a look at the packages that its name goes through.
    """
    for tool in _TOOLS:
        path = Path(__file__).with_name(f"{tool}.py")
        spec = spec_from_file_location(f"micro_batch_handler.tools.checking.{tool}", path)
        module = module_from_spec(spec)  # type: ignore[arg-type]  # a path always has one
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)  # type: ignore[union-attr]  # the same


if __name__ == "__main__":
    bring_tools()

    from micro_batch_handler.tools.checking.run import main

    model, *samples, outcome, seconds = sys.argv[1:]
    main(Path(model), [Path(sample) for sample in samples], Path(outcome), float(seconds))
