"""A worker's first batches, written to a file: what the key `trace` asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from micro_batch_handler.pipeline.outcomes import BatchRecord, Listener
from micro_batch_handler.tracing.recording import Setup, Trace, TracedBatch
from micro_batch_handler.tracing.trace_json import to_json

__all__ = ["TraceFile"]

logger = logging.getLogger(__name__)


class TraceFile:
    """Listens to so many batches, writes them, and listens no more.

    Args:
        path: of the file, which is replaced; of several workers, the last to write keeps it.
        batches: to wait for.
        setup: what they run with.
        leave: is given this listener when nothing is left to do.
    """

    def __init__(
        self, path: Path, batches: int, setup: Setup, leave: Callable[[Listener], None]
    ) -> None:
        self._path = path
        self._left = batches
        self._setup = setup
        self._leave = leave
        self._batches: list[TracedBatch] = []

    def __call__(self, record: BatchRecord) -> None:
        """Keep what a trace keeps of it; a file that cannot be written costs a line in the log."""
        self._batches.append(TracedBatch.of(record))
        self._left -= 1
        if self._left > 0:
            return
        self._leave(self)
        try:
            self._write()
        except Exception as error:  # of any kind: a trace may not cost an answer
            logger.warning("micro_batching.trace.file %s cannot be written: %r", self._path, error)
        else:
            logger.info("a trace of %d batches is in %s", len(self._batches), self._path)

    def _write(self) -> None:
        # Whole or not at all: somebody may be waiting for it, and another worker write it too.
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            part.write_text(to_json(Trace(self._setup, self._batches)), encoding="utf-8")
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)  # where it could not be moved
