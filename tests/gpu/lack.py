"""Why the tests of this folder cannot run here, if they cannot."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

__all__ = ["NEEDED", "lack"]

NEEDED = {
    "PIL": "pillow",
    "hypothesis": "hypothesis",
    "model_archiver": "torch-model-archiver",
    "numpy": "numpy",
    "psutil": "psutil",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "requests": "requests",
    "torch": "torch",
    "ts": "torchserve",
    "yaml": "pyyaml",
}
"""Which packages the modules are of that are imported here; Java is asked for by served.py."""


def lack() -> str | None:
    """What is missing, in one line; None if a GPU can be used."""
    missing = [package for module, package in NEEDED.items() if not find_spec(module)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    import torch

    build = f"torch {torch.__version__}"
    if not torch.backends.cuda.is_built():
        return f"no GPU: {build} is a CPU build"
    # A driver that is too old is told as a warning only.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return None
    runtime = torch.version.cuda or torch.version.hip
    why = "".join(f": {str(each.message).splitlines()[0]}" for each in told)
    return f"no GPU: {build}, built for {runtime}, sees none{why}"


if __name__ == "__main__":
    sys.exit(lack())
