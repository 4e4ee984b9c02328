"""What the sentences of a diagnosis are made of."""

from __future__ import annotations

__all__ = ["compiling", "number", "percent"]


def percent(share: float) -> str:
    """A share as a whole per cent."""
    return f"{round(100 * share)} %"


def number(count: int, what: str) -> str:
    """So many of something."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def compiling(most: int) -> str:
    """What to set to compile a model for calls of so many rows at most."""
    sizes = ", ".join(str(1 << bits) for bits in range((most - 1).bit_length() + 1))
    return f"compiling it (pt2: {{compile: {{enable: true}}}}, with allowed_sizes: [{sizes}])"
