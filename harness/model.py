"""One handler on a server: packed, registered, used, unregistered."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from harness.archives import pack
from harness.processes import kill, wait_gone
from harness.wait import until

if TYPE_CHECKING:
    from harness.torchserve import TorchServe

__all__ = ["Model", "Packed"]

_serial = itertools.count()


class Model:
    """A handler of handlers/ that is registered inside a `with` statement.

    Args:
        server: where.
        handler: a file in handlers/, without `.py`; or the path of any file.
        config: the content of model-config.yaml.
        helpers: as for `harness.archives.pack`.
        registration: parameters of the management API: batch_size, max_batch_delay,
            initial_workers, response_timeout.
    """

    def __init__(
        self,
        server: TorchServe,
        handler: str | Path,
        config: Mapping[str, Any] | None = None,
        helpers: Mapping[str, Path] | None = None,
        **registration: Any,
    ) -> None:
        self.server = server
        # The process is part of the name because the archiver stages in <tmp>/<name>.
        self.name = f"{Path(handler).stem}-{os.getpid()}-{next(_serial)}"
        self._registration = registration
        self.archive = pack(self.name, handler, config, server.model_store, helpers=helpers)

    def __enter__(self) -> Model:  # noqa: PYI034  (typing.Self needs Python 3.11)
        answer = self.register()
        if not answer.ok:
            self.unregister()
            raise RuntimeError(f"cannot register {self.name}: {answer.text}")
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        pids = self.worker_pids()
        self.unregister()
        self.archive.unlink()
        if error is None:
            for pid in pids:
                wait_gone(pid)

    def register(self) -> requests.Response:
        """Register, and wait until the workers have loaded the model or failed to."""
        with self.server.rest() as client:
            return client.register(url=self.archive.name, **self._registration)

    def unregister(self) -> requests.Response:
        """Unregister; the frontend ends the workers."""
        with self.server.rest() as client:
            return client.unregister(self.name)

    def scale(self, workers: int) -> requests.Response:
        """Set the number of workers."""
        with self.server.rest() as client:
            return client.scale(self.name, workers)

    def workers(self) -> list[dict[str, Any]]:
        """What the frontend tells of each worker: id, status, pid, memory."""
        with self.server.rest() as client:
            answer = client.describe(self.name)
        return list(answer.json()[0]["workers"]) if answer.ok else []

    def worker_pids(self) -> list[int]:
        """The processes of the workers that are ready."""
        return [int(each["pid"]) for each in self.workers() if each["status"] == "READY"]

    def kill_worker(self, pid: int) -> None:
        """SIGKILL a worker, and wait until it is gone; the frontend starts another."""
        kill([pid])

    def wait_for_new_worker(self, old: int, timeout: float = 60) -> int:
        """Wait until another worker than `old` is ready; gives back its process."""

        def new() -> list[int]:
            return [pid for pid in self.worker_pids() if pid != old]

        return until(new, f"a new worker of {self.name}", timeout)[0]

    def predict(self, **kwargs: Any) -> requests.Response:
        """One request over a connection of its own."""
        with self.server.rest() as client:
            return client.predict(self.name, **kwargs)


class Packed(Model):
    """An archive that has been packed before, registered inside a `with` statement."""

    def __init__(self, server: TorchServe, archive: Path, **registration: Any) -> None:
        self.server = server
        self.name = archive.stem
        self.archive = archive
        # An archive that was wrapped has its old name in its manifest.
        self._registration = {**registration, "model_name": self.name}
