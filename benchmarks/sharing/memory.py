"""What members and host hold, with a model of 400 MB of weights."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from statistics import mean

import psutil
import requests
import torch

import micro_batch_handler
from benchmarks.sharing.part import HOSTED, Found, say, shared, table
from harness.archives import pack_plain
from harness.model import Packed
from harness.rest import RestClient
from harness.sharing import hosts
from harness.torchserve import TorchServe

__all__ = ["memory"]

WEIGHTS_MB = 400e6 / 2**20
REQUESTS = 20
LOAD_S = 600.0
MIB = 2**20


class Heavy(Packed):
    """A model that may take minutes to load on a machine that is busy."""

    def register(self) -> requests.Response:
        """Register, and wait until the workers have loaded the model or failed to."""
        with RestClient(self.server.ports, LOAD_S) as client:
            return client.register(url=self.archive.name, **self._registration)


def memory(members: list[int]) -> Found:
    """The memory of so many members and their host, and of as many workers that do not share."""
    rows = []
    figures = {}
    wrong = []
    with tempfile.TemporaryDirectory(prefix="heavy-") as folder, TorchServe() as server:
        weights = Path(folder, "weights.pt")
        _save(weights)
        for shares in (True, False):
            for number in members:
                settings = shared(number, 8, share_model=shares)
                archive = pack_plain(
                    f"heavy-{'shared' if shares else 'each'}",
                    str(HOSTED / "heavy.py"),
                    settings,
                    server.model_store,
                    {"micro_batch_handler": Path(micro_batch_handler.__file__).parent},
                    model_file=str(HOSTED / "heavy_net.py"),
                    serialized_file=str(weights),
                )
                with Heavy(server, archive, initial_workers=number, batch_size=8) as model:
                    for at in range(REQUESTS * number):
                        answer = model.predict(json={"number": at})
                        answer.raise_for_status()
                    workers = [_mb(pid) for pid in model.worker_pids()]
                    host = sum(map(_mb, hosts(server, model.name)))
                total = sum(workers) + host
                say(f"memory: {number} workers, shared {shares}: {total:.0f} MB")
                what = "share_model" if shares else "a model each"
                each = f"{mean(workers):.0f}"
                rows.append((what, number, each, f"{host:.0f}" if shares else "", f"{total:.0f}"))
                figures[f"{what}, {number}"] = {"workers": workers, "host": host}
                if len(workers) != number:
                    wrong.append(f"{len(workers)} workers in place of {number}")
                if shares and (host < WEIGHTS_MB or max(workers) > WEIGHTS_MB):
                    wrong.append(f"{number} members hold {workers} MiB, the host {host:.0f} MiB")
    head = ("", "workers", "each worker (MiB)", "process with the model (MiB)", "together (MiB)")
    return Found("memory", table(head, rows), figures, wrong)


def _save(weights: Path) -> None:
    spec = importlib.util.spec_from_file_location("heavy_net", HOSTED / "heavy_net.py")
    if spec is None or spec.loader is None:
        raise ImportError("heavy_net.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(module.HeavyNet().state_dict(), weights)


def _mb(pid: int) -> float:
    """Shared pages count in equal parts for all processes that have them (PSS)."""
    return float(psutil.Process(pid).memory_full_info().pss) / MIB
