"""Figures with their units, as people read them."""

from __future__ import annotations

from micro_batch_handler.tools.tuning.result import MIB

__all__ = ["mib", "ms"]

UNBROKEN = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that a page keeps them on one line."""


def ms(seconds: float) -> str:
    """Seconds, in milliseconds."""
    value_ms = seconds * 1000
    return f"{value_ms:,.0f}{UNBROKEN}ms" if value_ms >= 100 else f"{value_ms:.3g}{UNBROKEN}ms"  # noqa: PLR2004


def mib(size_bytes: float) -> str:
    """Bytes, in MiB; 0 where the system does not tell."""
    return f"{size_bytes / MIB:,.0f}{UNBROKEN}MiB" if size_bytes else "unknown"
