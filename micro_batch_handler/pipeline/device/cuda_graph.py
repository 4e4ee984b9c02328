"""CUDA graphs of calls with tensors of fixed shapes: a replay launches all kernels at once.

`torch.cuda.make_graphed_callables` does the same for training.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["GraphMemory", "captured"]

CALLS_BEFORE = 2
"""In which libraries take their workspaces, which a capture must not."""


class GraphMemory:
    """Device memory that graphs share, which are replayed one after the other."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.lock = threading.Lock()
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        """The last replay has ended, and its results are copied."""


def captured(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    memory: GraphMemory,
) -> Callable[..., Any]:
    """The graph of a call.

    Args:
        function: that is called; it must not wait for the device.
        args: of the call; the tensors among them are copied, the graph reads the copies.
        kwargs: the same.
        memory: for what the graph computes; it is kept as long as the graph.

    Returns:
        Called with tensors of the same shapes, it replays the graph and gives a copy of the result,
        in the stream of the caller. Any thread may call it.
    """
    leaves, structure = pytree.tree_flatten((tuple(args), dict(kwargs)))
    # Normal tensors can be written to in inference mode and without.
    with torch.inference_mode(False):
        fixed = [_copy(leaf) for leaf in leaves]
    fixed_args, fixed_kwargs = pytree.tree_unflatten(fixed, structure)
    graph = torch.cuda.CUDAGraph()
    memory.stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(memory.stream):
        for _ in range(CALLS_BEFORE):
            function(*fixed_args, **fixed_kwargs)
    # Lanes go on to allocate memory meanwhile.
    with torch.cuda.graph(
        graph, pool=memory.pool, stream=memory.stream, capture_error_mode="thread_local"
    ):
        results = function(*fixed_args, **fixed_kwargs)
    torch.cuda.current_stream().wait_stream(memory.stream)
    inputs = [(at, leaf) for at, leaf in enumerate(fixed) if isinstance(leaf, torch.Tensor)]

    def replay(*args: Any, **kwargs: Any) -> Any:
        given = pytree.tree_leaves((args, kwargs))
        with memory.lock:
            memory.done.wait()
            for at, leaf in inputs:
                leaf.copy_(given[at], non_blocking=True)
            graph.replay()
            copies = pytree.tree_map_only(torch.Tensor, torch.clone, results)
            memory.done.record()
        return copies

    return replay


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
