"""What TorchServe's frontend really sends to a worker."""

from __future__ import annotations

from pathlib import Path

__all__ = ["RECORDING"]

RECORDING = Path(__file__).parent / "frontend.bin"
"""The messages, one after the other as on the connection."""
