"""Run a network on several batches, and tell batches apart by their form."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from earlycrop.utils.modules import collect_tensors


def batch_form(batch: Any) -> Hashable:
    """Return what batches that run the same parts of a network usually have in common.

    Args:
        batch: A batch, of any type.

    Returns:
        The containers, the shapes and types of tensors, and plain values such as the name of a task. A tensor with a
        single integer counts with its value, as it may be the number of a task.
    """
    leaves, containers = tree_flatten(batch)
    return str(containers), tuple(_leaf_form(leaf) for leaf in leaves)


def _leaf_form(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        is_number = leaf.numel() == 1 and not (leaf.is_floating_point() or leaf.is_complex() or leaf.is_meta)
        return tuple(leaf.shape), str(leaf.dtype), leaf.item() if is_number else None
    if isinstance(leaf, str | bytes | int | bool | None):
        return type(leaf), leaf
    return type(leaf), tuple((tuple(t.shape), str(t.dtype)) for t in collect_tensors(leaf))


def run_batches(model: nn.Module, run: Callable[[nn.Module, Any], Any], batches: Sequence[Any]) -> list[Any]:
    """Run a network on each batch.

    Args:
        model: The network.
        run: (network, batch) -> output.
        batches: The batches.

    Returns:
        The outputs.
    """
    return [run(model, batch) for batch in batches]
