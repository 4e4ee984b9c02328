"""The most memory that this process holds while something runs. Linux tells; others do not."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

__all__ = ["PeakMemory"]

RESET = "5"
"""Sets the mark back: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html"""

KIB = 2**10


class PeakMemory:
    """Resident memory at its highest since `begin`.

    Args:
        process: the folder of the process; a test passes its own.
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process
        self._begins = False

    def trim(self) -> None:
        """Give back what is free, so that larger batches of before do not count."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)

    def begin(self) -> None:
        """Forget what was before."""
        try:
            (self._process / "clear_refs").write_text(RESET, encoding="ascii")
        except OSError:
            self._begins = False
        else:
            self._begins = True

    def peak_bytes(self) -> int:
        """The highest since then; 0 if it cannot be told."""
        if not self._begins:
            return 0
        try:
            status = (self._process / "status").read_text(encoding="utf-8")
        except OSError:
            return 0
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * KIB if found else 0
