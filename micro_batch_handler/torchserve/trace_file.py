"""Writes a worker's first batches to a file, as the key `trace` says."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from micro_batch_handler.config import TraceSettings
from micro_batch_handler.pipeline.outcomes import BatchRecord, Listener
from micro_batch_handler.tracing.recording import Setup, Trace, TracedBatch
from micro_batch_handler.tracing.trace_json import to_json

__all__ = ["TraceFile", "trace_to_file"]

logger = logging.getLogger(__name__)


class TraceFile:
    """Listens to some batches, writes them, and leaves.

    Args:
        path: of the file, which is replaced. `%p` in its name stands for the worker's process; if
            several workers write the same file, the last one's stays.
        batches: how many to wait for.
        setup: the lanes, threads and sizes that they run with.
        leave: is called with this listener when it has heard enough.
    """

    def __init__(
        self, path: Path, batches: int, setup: Setup, leave: Callable[[Listener], None]
    ) -> None:
        self._path = path.with_name(path.name.replace("%p", str(os.getpid())))
        self._left = batches
        self._setup = setup
        self._leave = leave
        self._batches: list[TracedBatch] = []

    def __call__(self, record: BatchRecord) -> None:
        """Keep a batch; the last one is followed by the write, whose failure is only logged."""
        self._batches.append(TracedBatch.of(record))
        self._left -= 1
        if self._left > 0:
            return
        self._leave(self)
        try:
            self._write()
        except Exception as error:  # of any kind, since a trace may not cost an answer
            logger.warning("micro_batching.trace.file %s cannot be written: %r", self._path, error)
        else:
            logger.info("a trace of %d batches is in %s", len(self._batches), self._path)

    def _write(self) -> None:
        # Moved into place: somebody may wait for the file, and another worker may write it, too.
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            part.write_text(to_json(Trace(self._setup, self._batches)), encoding="utf-8")
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)  # it is there if it could not be moved


def trace_to_file(trace: TraceSettings, setup: Setup, listeners: list[Listener]) -> None:
    """Let a trace be written of the first batches, if the settings name a file."""
    if trace.file:
        listeners.append(TraceFile(Path(trace.file), trace.batches, setup, listeners.remove))
