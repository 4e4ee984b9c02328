"""Why the tests of this folder cannot run here, if they cannot."""

from __future__ import annotations

import importlib.util
import warnings

__all__ = ["lack"]


def lack() -> str | None:
    """What is missing, in one line; None if a GPU can be used."""
    if importlib.util.find_spec("torch") is None:
        return "no GPU: torch is not installed"
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
