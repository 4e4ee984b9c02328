"""What the host's process writes, sent to a member that logs it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading

from micro_batch_handler.hosting.host import Host

__all__ = ["say_output"]

LONGEST_LINE_BYTES = 64 * 1024
"""Of what is written without a line end, such as a progress bar."""


def say_output(host: Host) -> None:
    """Let a member log whatever this process writes, C++ code included."""
    # What crashes it goes to the file that the first output goes to, which its members read.
    faulthandler.enable(os.fdopen(os.dup(2), "w"))
    reading, writing = os.pipe()
    for fd in (1, 2):
        os.dup2(writing, fd)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def forward() -> None:
        rest = b""
        while data := os.read(reading, 65536):
            lines, _, rest = (rest + data).rpartition(b"\n")
            if len(rest) > LONGEST_LINE_BYTES:
                lines, rest = lines + rest, b""
            if lines:
                host.log.say(f"{lines.decode('utf-8', 'replace')}\n")

    threading.Thread(target=forward, name="mbh-output", daemon=True).start()
