"""The arguments of a model's call: what they look like, and the same for other numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

__all__ = ["ModelArguments", "Shapes"]


class Shapes(NamedTuple):
    """What arguments look like, the number of rows left out; two calls alike can share a program.

    Args:
        structure: the tuples and dicts around the values.
        leaves: what a compiler tells tensors apart by; other values as they are.
    """

    structure: Any
    leaves: tuple[Any, ...]

    def __str__(self) -> str:
        tensors = [leaf for leaf in self.leaves if isinstance(leaf[0], tuple)]
        return ", ".join(
            f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"
            for shape, dtype, *_ in tensors
        )


class ModelArguments:
    """The arguments of one call.

    Args:
        args: by position.
        kwargs: by name.
    """

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.leaves, self._structure = pytree.tree_flatten((tuple(args), dict(kwargs)))
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        self.rows = next((len(tensor) for tensor in tensors if tensor.dim()), 0)
        """The length of the first tensor that has one; 0 if there is none."""
        kinds = (tensor.device.type for tensor in tensors)
        self.accelerator = next((kind for kind in kinds if kind != "cpu"), None)
        """The kind of device that they are on (`cuda`); None for the CPU."""

    def shapes(self) -> Shapes | None:
        """What they look like; None if there is a value of which that cannot be said."""
        found: list[Any] = []
        for leaf in self.leaves:
            if isinstance(leaf, torch.Tensor):
                rows = ("rows",) if self._is_of_rows(leaf) else ()
                shape = (*rows, *leaf.shape[len(rows) :])
                made = (leaf.is_inference(), leaf.requires_grad)
                found.append((shape, leaf.dtype, leaf.device, *made))
            elif leaf is None or isinstance(leaf, (bool, int, float, str)):
                found.append((type(leaf), leaf))
            else:
                return None
        return Shapes(self._structure, tuple(found))

    def resized(self, rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copies for another number of rows, by position and by name: rows repeated, or left out.

        Strides and the kind of tensor stay, since a compiler looks at both.
        """
        leaves = [self._resized(leaf, rows) for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._structure)
        return args, kwargs

    def _resized(self, leaf: Any, rows: int) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with torch.inference_mode(leaf.is_inference()):
            own = leaf.detach()
            if self._is_of_rows(leaf):
                own = torch.cat([own] * -(-rows // self.rows))[:rows]
            return own.clone()

    def _is_of_rows(self, tensor: torch.Tensor) -> bool:
        return bool(tensor.dim()) and len(tensor) == self.rows
