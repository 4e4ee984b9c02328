"""A model loaded from its archive, answering batches by TorchServe's own code.

Several batches may be under way: each is answered by a service of its own, a copy with the same
handler behind it. The engine lets the batches share its lanes, and one wait where it has to.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ts import service as ts_service
from ts.context import RequestProcessor

from micro_batch_handler.config import SECTION
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.pipeline.loading_lane import LoadingLane
from micro_batch_handler.ray.answers import ServerError
from micro_batch_handler.ray.metrics import RayMetricsCache
from micro_batch_handler.ray.model_archive import ModelArchive
from micro_batch_handler.ray.refusals import refuse_signals
from micro_batch_handler.ray.wire_request import WireRequest
from micro_batch_handler.tools.checking.response import WireAnswer, read_response
from micro_batch_handler.tools.checking.worker import DECODES, load
from micro_batch_handler.tools.packing.inputs import PACKAGE
from micro_batch_handler.tools.workbench.model_folder import model_folder, set_share_model
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.refusals import SENDERS
from micro_batch_handler.torchserve.views import routes_of
from micro_batch_handler.torchserve.wire.decode import decode_rows

__all__ = ["ServedModel"]

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
"""Batches: one is computed, the next is prepared, and clients of others read or write meanwhile."""

OK = 200
TOO_LARGE, NO_STORAGE = 413, 507
"""The frontend sends the second in place of the first."""


class ServedModel:
    """Loads an archive in this process, which has one model for its life.

    Args:
        archive: what to load.
        install_requirements: whether to install its requirements file with pip, into the model's
            folder, as TorchServe does with `install_py_dep_per_model=true`.

    Raises:
        ArchiveError: the archive cannot be unpacked, or pip fails.
        Exception: whatever the handler raises when it loads.
    """

    def __init__(self, archive: ModelArchive, *, install_requirements: bool = False) -> None:
        _log_to_stdout()
        self._private = tempfile.TemporaryDirectory(prefix="mbh-ray-")
        folder = model_folder(archive.path, None, Path(self._private.name))
        if (archive.model_yaml.get(SECTION) or {}).get("share_model"):
            logger.warning(
                "%s: share_model is for TorchServe's workers. On Ray a replica has the model for "
                "itself, and prepares the next batch while one is computed",
                archive.key,
            )
            set_share_model(folder, shares=False)
        if archive.requirements and install_requirements:
            _install(folder, archive.requirements)
        sys.path.insert(0, str(folder))
        os.chdir(folder)  # as TorchServe's worker
        os.environ[DECODES] = "false"  # the lanes do it, or `_answer_decoded`
        ts_service.RequestProcessor = _Processor
        # TorchServe's worker loads and calls its handler in one thread, and some need that.
        # In a main thread `asyncio.get_event_loop` makes a loop; in others it raises.
        self._loading_lane = LoadingLane(lambda: asyncio.set_event_loop(asyncio.new_event_loop()))
        service = self._loading_lane.do(partial(load, folder, metrics=RayMetricsCache()))
        handler = getattr(service._entry_point, "__self__", None)  # noqa: SLF001
        self.in_flight = IN_FLIGHT if isinstance(handler, MicroBatchMixin) else 1
        """Batches that may be under way at once; one of a handler without micro-batching."""
        refuse_signals(type(handler))
        if self.in_flight == 1:
            service._entry_point = _decoding(service._entry_point)  # noqa: SLF001
        self.sends_parts = _sends_parts(folder)
        """Whether its code may send parts of answers before the last."""
        self.listeners: dict[str, Callable[[WireAnswer], object]] = {}
        """Who gets the parts of the answer to a request, by its id."""
        self._connection = _Connection(self.listeners)
        self._services: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.in_flight):
            self._services.put(self._copy(service))

    @property
    def why_unhealthy(self) -> str:
        """Why this process cannot serve any more; empty if it can."""
        return "its device is lost, or threads hang" if self._connection.closed else ""

    def answers(self, requests: Sequence[WireRequest]) -> list[WireAnswer | ServerError]:
        """The answers of a batch, in the order of its requests. Any thread may call it."""
        service = self._services.get()
        predict = partial(service.predict, requests)
        try:
            # A pipeline has lanes, and asks the loading lane for what needs it.
            answer = predict() if self.in_flight > 1 else self._loading_lane.do(predict)
            response = read_response(bytes(answer))
        finally:
            self._services.put(service)
        if response.code != OK:
            status = NO_STORAGE if response.code == TOO_LARGE else response.code
            failed = ServerError(status, "InternalServerException", response.message)
            return [failed] * len(requests)
        return list(response.answers)

    def _copy(self, service: Any) -> Any:
        """A service for one batch at a time; handlers that keep the context find theirs in it."""
        own = copy.copy(service)
        own._context = copy.copy(service.context)  # noqa: SLF001
        own.set_cl_socket(self._connection)
        routes = routes_of(service.context)
        if routes is not None:
            routes.several_batches = True
        return own


class _Headers(dict[str, Any]):
    """A request's headers by name, in any case: servers before this one send them in lower case."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, super().get(key.lower(), default))


class _Processor(RequestProcessor):  # type: ignore[misc]  # ts is untyped
    """TorchServe's, with such headers."""

    def __init__(self, request_header: dict[str, Any]) -> None:
        super().__init__(_Headers(request_header))


class _Connection:
    """In place of the socket to TorchServe's frontend, which a worker that ends stops reading."""

    def __init__(self, listeners: Mapping[str, Callable[[WireAnswer], object]]) -> None:
        self._listeners = listeners
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def shutdown(self, how: int = socket.SHUT_RD) -> None:  # noqa: ARG002
        self._closed.set()

    def sendall(self, message: bytes) -> None:
        """Hand each request's part of its answer to who listens to it."""
        for part in read_response(bytes(message)).answers:
            listener = self._listeners.get(part.request_id)
            if listener is not None:  # its client is gone
                listener(part)


def _sends_parts(folder: Path) -> bool:
    """Whether a Python file of the model, this package's apart, names what sends parts."""
    return any(
        name in file.read_text(encoding="utf-8", errors="replace")
        for file in folder.rglob("*.py")
        if PACKAGE not in file.relative_to(folder).parts
        for name in SENDERS
    )


def _log_to_stdout() -> None:
    """Let the process write the log as TorchServe's worker does; Ray's own loggers are apart.

    Not to `sys.stdout`, which Ray Serve may have replaced by a buffer for its own log file.
    """
    shown = logging.StreamHandler(sys.__stdout__)
    shown.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(shown)
    root.setLevel(logging.INFO)


def _decoding(handle: Any) -> Any:
    """A handler's `handle`, which finds its rows decoded as TorchServe's worker decodes them."""

    def answer_decoded(data: list[Any], context: Any) -> Any:
        return handle(decode_rows(data, context), context)

    return answer_decoded


def _install(folder: Path, requirements: str) -> None:
    """Install into the model's folder, as TorchServe's frontend does.

    Raises:
        ArchiveError: pip fails.
    """
    pip = [sys.executable, "-m", "pip", "install", "-U", "-t", str(folder), "-r", requirements]
    done = subprocess.run(  # noqa: S603
        pip, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:]
        raise ArchiveError(f"{requirements} cannot be installed: {' '.join(why)}")
