"""A model that `torch.compile` makes faster, and that answers uncompiled until that is done.

call(arguments)       in the lanes; uncompiled at first
  sample              the arguments whose shapes have come often enough, kept
  compile             in a thread beside: for each allowed number of rows, made from the sample;
                      each result is compared with that of the uncompiled model
call(arguments)       from then on compiled, where the shapes are those that were compiled for
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils import _pytree as pytree

from micro_batch_handler.config.limits import GRAPH_MODES
from micro_batch_handler.pipeline.device.cuda_graph import GraphMemory, captured
from micro_batch_handler.pipeline.device.model_arguments import ModelArguments, Shapes
from micro_batch_handler.pipeline.device.thread_state import ThreadState, use_threads

__all__ = ["CompiledModel"]

logger = logging.getLogger(__name__)

CALLS_BEFORE = 3
"""Of the same shapes, before they are compiled for: the first request may be unlike all others."""

TOLERANCE = {torch.float16: 5e-2, torch.bfloat16: 5e-2}
OTHER_TOLERANCE = 1e-2
"""By how much a result may differ, as a share of the largest one: rounding comes near it after half
a hundred layers, in TF32 too, in which PyTorch may convolve float32."""

MOST_TOLD = 300
"""Characters of a compiler's error; the rest is in the log of level DEBUG."""


class CompiledModel:
    """Calls a model, compiled as soon as that is ready. May be called by any thread.

    Args:
        model: that is compiled; it keeps its attributes and hooks.
        sizes: the row counts to compile for, ascending.
        options: of `torch.compile`.
    """

    def __init__(
        self, model: torch.nn.Module, sizes: Sequence[int], options: Mapping[str, Any]
    ) -> None:
        self._model = model
        self._sizes = tuple(sizes)
        self._options, self._graphs = _without_graphs(options)
        self._lock = threading.Lock()
        self._seen: Counter[Shapes] = Counter()
        self._shapes: Shapes | None = None
        self._calls: Mapping[int, Callable[..., Any]] = {}
        self._told = False
        self.settled = threading.Event()
        """It is known whether the model is called compiled."""

    @property
    def is_used(self) -> bool:
        """Whether arguments of the right shapes go to the compiled model."""
        return bool(self._calls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        if self.settled.is_set() and not self._calls:
            return self._model(*args, **kwargs)
        arguments = ModelArguments(args, kwargs)
        shapes = arguments.shapes()
        if not self._calls:
            self._see(shapes, arguments)
        elif shapes == self._shapes and arguments.rows in self._calls:
            return self._calls[arguments.rows](*args, **kwargs)
        elif not self._told:
            self._told = True
            logger.warning(
                "inference is compiled for %s rows (%s), and called uncompiled with %d (%s). Bring "
                "all rows to one shape in preprocess, and call the model once with all of them",
                *(_listed(self._sizes), self._shapes, arguments.rows, shapes),
            )
        return self._model(*args, **kwargs)

    def _see(self, shapes: Shapes | None, arguments: ModelArguments) -> None:
        """Begin to compile for arguments like these, if they have come often enough."""
        if shapes is None or arguments.rows not in self._sizes:
            return
        with self._lock:
            self._seen[shapes] += 1
            if self._shapes is not None or self._seen[shapes] < CALLS_BEFORE:
                return
            self._shapes = shapes
        # The caller goes on to write to its tensors, perhaps.
        sample = ModelArguments(*arguments.resized(arguments.rows))
        state = ThreadState.capture(sample.accelerator)
        threading.Thread(
            target=self._compile_all,
            args=(sample, state, torch.get_num_threads()),
            name="mbh-compile",
            daemon=True,
        ).start()

    def _compile_all(self, sample: ModelArguments, state: ThreadState, threads: int) -> None:
        began_s = time.monotonic()
        try:
            # A program belongs to these settings: lanes with others could not call it.
            state.apply()
            use_threads(threads)
            with _one_process_at_a_time():
                self._calls = self._compiled(sample)
        except BaseException as error:
            logger.warning("inference stays uncompiled: %s", _in_one_line(error))
            logger.debug("why inference stays uncompiled", exc_info=error)
        else:
            took_s, sizes = time.monotonic() - began_s, _listed(self._sizes)
            logger.info(
                "inference is compiled for %s rows (%s), after %.0f s", sizes, self._shapes, took_s
            )
        self.settled.set()

    def _compiled(self, sample: ModelArguments) -> dict[int, Callable[..., Any]]:
        """The compiled model, for each size.

        Raises:
            AssertionError: it does not compute what the model does.
            BaseException: whatever the compiler raises.
        """
        from torch._dynamo import config as dynamo  # a second, which only compilers need

        memory = GraphMemory() if self._graphs and sample.accelerator == "cuda" else None
        calls: dict[int, Callable[..., Any]] = {}
        # A program of its own for each size; the compiler gives up after 8 of them, silently.
        limit = max(dynamo.cache_size_limit, len(self._sizes) + 1)
        with dynamo.patch(cache_size_limit=limit):
            compiled = torch.compile(self._model, dynamic=False, **self._options)
            # The largest first: graphs after it find room in its memory.
            for size in reversed(self._sizes):
                args, kwargs = sample.resized(size)
                expected = self._model(*args, **kwargs)
                compiled(*args, **kwargs)
                graph = None if memory is None else captured(compiled, args, kwargs, memory)
                calls[size] = graph or compiled
                _compare(calls[size](*args, **kwargs), expected, size)
        if memory is not None:
            torch.cuda.synchronize()
        return calls


def _without_graphs(options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The options of `torch.compile` without CUDA graphs, and whether it was to make some.

    PyTorch's own graphs belong to the thread that makes them (torch/_inductor/cudagraph_trees.py).
    Ours are captured in a thread beside the lanes, and replayed in a lane.
    """
    rest = {key: value for key, value in options.items() if key != "dynamic"}
    mode = rest.get("mode")
    if mode in GRAPH_MODES:
        return {**rest, "mode": GRAPH_MODES[mode]}, True
    inductor = dict(rest.get("options") or {})
    graphs = bool(inductor.pop("triton.cudagraphs", False))
    return ({**rest, "options": inductor} if graphs else rest), graphs


def _compare(found: Any, expected: Any, size: int) -> None:
    """Compare results.

    Raises:
        AssertionError: they differ by more than rounding can explain.
    """
    ours, structure = pytree.tree_flatten(found)
    due, due_structure = pytree.tree_flatten(expected)
    if structure != due_structure:
        raise AssertionError(f"compiled, it returns {structure} for {size} rows")
    for one, other in zip(ours, due, strict=True):
        exact = not isinstance(other, torch.Tensor) or not other.is_floating_point()
        share = 0.0 if exact else TOLERANCE.get(other.dtype, OTHER_TOLERANCE)
        most = 0.0 if exact or not other.numel() else float(other.abs().nan_to_num().max())
        try:
            torch.testing.assert_close(one, other, rtol=share, atol=share * most, equal_nan=True)
        except (AssertionError, TypeError) as error:
            raise AssertionError(f"compiled, it answers {size} rows otherwise: {error}") from None


def _one_process_at_a_time() -> FileLock:
    """Lets workers compile one after the other: all but the first find most in the cache on disk.

    The cache is Inductor's, in `TORCHINDUCTOR_CACHE_DIR`.
    """
    from torch._inductor.runtime.runtime_utils import cache_dir  # type: ignore[attr-defined]

    Path(cache_dir()).mkdir(parents=True, exist_ok=True)
    return FileLock(Path(cache_dir(), "micro_batch_handler.lock"))


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:MOST_TOLD]}"
