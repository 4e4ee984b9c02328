"""A worker with `share_model` and its model host, without a server; on a GPU or a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from harness.archives import pack
from harness.processes import alive
from harness.wait import until
from harness.wire import Request
from harness.worker import Worker
from tests.fakes import fake_context

__all__ = ["ROWS", "HostedWorker", "expected", "largest_differences"]

ROWS = 8
OK = 200
HANDLER = Path(__file__).parent / "handlers" / "hosted.py"
START_S = 60


class HostedWorker:
    """The worker, in a `with` statement; `kill_host` and `host` are for its model host.

    Args:
        folder: for the archive.
        gpu: its number; None for the CPU.
        section: more of `micro_batching:`.
        settings: of the `handler:` section.
    """

    def __init__(
        self,
        folder: Path,
        gpu: int | None,
        section: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        config = {
            # A batch is one call, so that its shapes are those of the calls without a host.
            "micro_batching": {"share_model": True, "micro_batch_size": ROWS, **(section or {})},
            "handler": dict(settings or {}),
        }
        name = f"hosted-{os.getpid()}"
        archive = pack(name, HANDLER, config, folder, "no-archive", helpers={})
        self._worker = Worker(archive, HANDLER.stem, ROWS, gpu=gpu)

    def __enter__(self) -> HostedWorker:  # noqa: PYI034  (typing.Self needs Python 3.11)
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        host = self.host()
        self._worker.close()
        until(lambda: not alive(host.pid), "the end of the host without its worker", START_S)

    def host(self) -> psutil.Process:
        """Its model host."""
        found = psutil.Process(self._worker.process.pid).children(recursive=True)
        (host,) = (each for each in found if "torchserve.host.process" in " ".join(each.cmdline()))
        return host

    def kill_host(self) -> int:
        """SIGKILL the host; gives back its pid once it has ended."""
        host = self.host()
        host.kill()
        until(lambda: not alive(host.pid), "the end of the host", START_S)
        return int(host.pid)

    def answers(self, numbers: Sequence[int]) -> list[Any]:
        """The answers to these numbers, in one batch.

        Raises:
            AssertionError: one of them is an error.
        """
        bodies = [json.dumps({"number": number}).encode() for number in numbers]
        requests = [Request(f"id-{place}", body) for place, body in enumerate(bodies)]
        code, answers = self._worker.predict(requests)
        assert code == OK, code
        found = sorted(answers, key=lambda each: int(each.id.removeprefix("id-")))
        for each in found:
            assert each.code in (-1, OK), f"{each.body.decode()}\n{self._worker.log()[-3000:]}"
        return [json.loads(each.body) for each in found]


def expected(numbers: Sequence[int], gpu: int | None) -> list[Any]:
    """The answers of the same handler in this process, without lanes and without a host."""
    handler = _module().Hosted()
    handler.device = torch.device("cpu") if gpu is None else torch.device("cuda", gpu)
    context = fake_context(len(numbers), batch_size=ROWS)
    context.system_properties["gpu_id"] = gpu
    # Not the lanes that come after it.
    type(handler).initialize.__wrapped__(handler, context)
    rows = [{"body": {"number": number}} for number in numbers]
    answers: list[Any] = handler.postprocess(handler.inference(handler.preprocess(rows)))
    return answers


def largest_differences(found: Sequence[Any], right: Sequence[Any]) -> dict[str, float]:
    """For each type, how far any number of these answers is from the right one."""
    assert len(found) == len(right)
    return {
        name: max(
            abs(one - other)
            for answer, wanted in zip(found, right, strict=True)
            for one, other in zip(answer[name], wanted[name], strict=True)
        )
        for name in right[0]
    }


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hosted_here", HANDLER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
