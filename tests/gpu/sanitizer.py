"""PyTorch's sanitizer of streams in every lane; a process of its own, for it cannot be undone.

    python -m tests.gpu.sanitizer {as-it-is,deaf} CASE

`torch.cuda._sanitizer` is a dispatch mode, and modes belong to a thread: entered in the main one it
sees nothing of what lanes do (https://github.com/pytorch/pytorch/pull/85401). So each lane gets a
mode of its own, and all share one handler of events, which is locked.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch.cuda._gpu_trace
import torch.cuda._sanitizer as csan
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LaneMode", "SharedHandler", "main"]


class SharedHandler(csan.EventHandler):
    """Keeps what it finds instead of raising, and may be called by all threads.

    The lock is reentrant: a tensor that the garbage collector frees meanwhile calls it as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.kernels: Counter[str] = Counter()
        self._lock = threading.RLock()
        for name in dir(csan.EventHandler):
            if name.startswith("_handle_"):
                setattr(self, name, self._locked(getattr(self, name)))

    def listen(self) -> None:
        """Hear of all streams, events and blocks, in place of the module's own handler."""
        trace = torch.cuda._gpu_trace
        for kind in (
            "event_creation",
            "event_deletion",
            "event_record",
            "event_wait",
            "memory_allocation",
            "memory_deallocation",
            "stream_creation",
            "device_synchronization",
            "stream_synchronization",
            "event_synchronization",
        ):
            registry = "".join(word.title() for word in kind.split("_")) + "Callbacks"
            getattr(trace, registry).callback_list.clear()
            register = getattr(trace, f"register_callback_for_{kind}")
            register(getattr(self, f"_handle_{kind}"))

    def _handle_kernel_launch(self, *args: Any, **kwargs: Any) -> list[Any]:
        self.kernels[threading.current_thread().name] += 1
        errors = super()._handle_kernel_launch(*args, **kwargs)
        self.found += [str(error) for error in errors]
        return []

    def _locked(self, method: Any) -> Any:
        @wraps(method)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return method(*args, **kwargs)

        return locked


class LaneMode(csan.CUDASanitizerDispatchMode):
    """The mode of one thread; unlike the original it registers nothing."""

    def __init__(self, handler: SharedHandler) -> None:
        TorchDispatchMode.__init__(self)
        self.event_handler = handler


def main(arguments: Sequence[str] | None = None) -> int:
    """Run late batches with the sanitizer in every lane; prints what it found as JSON."""
    import pytest

    from micro_batch_handler.torchserve import engine
    from tests.gpu.benches import GpuBench
    from tests.gpu.delays import CASES, late_answers, right_answers

    how, case = sys.argv[1:] if arguments is None else arguments
    handler = SharedHandler()
    handler.listen()
    bench = GpuBench()

    class Watched(engine.ThreadState):
        """Enters the mode in each lane, where it stays."""

        def apply(self) -> None:
            super().apply()
            LaneMode(handler).__enter__()

    delays_ms = {"preprocess": 1.0, "inference": 1.0, "postprocess": 1.0}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(engine, "ThreadState", Watched)
        if how == "deaf":
            bench.make_deaf()
        answers = late_answers(bench, monkeypatch, CASES[case], delays_ms)
    bench.synchronize()
    told = {
        "found": handler.found[:3],
        "findings": len(handler.found),
        "kernels": dict(handler.kernels),
        "right": answers == right_answers(bench),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
