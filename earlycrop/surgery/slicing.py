"""Cut the parameters and buffers of a module, and update its size attributes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask, Size
from earlycrop.utils.layer_sizes import SIZES_ATTRIBUTE, layer_sizes, set_size, store_size
from earlycrop.utils.meta import meta_like
from earlycrop.utils.modules import assign_tensor, tensor_owners
from earlycrop.utils.parametrizations import parametrized_modules, weight_shape

KeptIndices = dict[str, dict[int, Tensor]]
"""Tensor name -> dimension -> the indices that stay, for the dimensions that are cut."""


def kept_indices(graph: Graph, removed: NodeMask) -> KeptIndices:
    """Find the indices that stay when nodes are removed.

    Args:
        graph: The traced graph.
        removed: The nodes to remove.

    Returns:
        The indices, for every tensor and dimension that is cut.
    """
    kept = np.append(~removed, True)  # the last entry serves channels without a node, which are numbered -1
    keep: KeptIndices = {}
    for axis in graph.axes:
        stays = kept[axis.nodes]
        if not stays.all():
            keep.setdefault(axis.tensor, {})[axis.dim] = torch.from_numpy(stays.nonzero()[0])
    return keep


class Scratch:
    """Memory that is reused for the intermediate result when two dimensions of a tensor are cut.

    Without it, the first touch of newly allocated pages takes longer than the selection itself.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def select(self, tensor: Tensor, dim: int, index: Tensor) -> Tensor:
        """Return ``tensor.index_select(dim, index)``. The result is overwritten by the next call."""
        shape = [index.numel() if d == dim else n for d, n in enumerate(tensor.shape)]
        key, count = (tensor.dtype, tensor.device), prod(shape)
        if key not in self._buffers or self._buffers[key].numel() < count:
            self._buffers[key] = tensor.new_empty(count)
        return torch.index_select(tensor, dim, index, out=self._buffers[key][:count].view(shape))


def select_entries(tensor: Tensor, keep: Mapping[int, Tensor], scratch: Scratch | None = None) -> Tensor:
    """Select the entries of a tensor that stay, and keep its memory format (channels last, say).

    Args:
        tensor: The tensor to cut.
        keep: Dimension -> the indices that stay. A dimension of size 1 broadcasts, and is not cut.
        scratch: Memory for an intermediate result.

    Returns:
        The smaller tensor, detached.
    """
    small = tensor.detach()
    selections = [(dim, index.to(small.device)) for dim, index in keep.items() if small.shape[dim] > 1]
    if small.layout != torch.strided or small.is_contiguous():
        if len(selections) == 2 and scratch is not None and small.layout == torch.strided:
            small = scratch.select(small, *selections.pop(0))
        for dim, index in selections:
            small = small.index_select(dim, index)
        return small
    strides = small.stride()
    order = sorted(range(small.ndim), key=lambda d: -strides[d])
    permuted = small.permute(order)
    for dim, index in selections:
        permuted = permuted.index_select(order.index(dim), index)
    return permuted.permute([order.index(d) for d in range(small.ndim)])


@dataclass(frozen=True)
class Swap:
    """The tensors and size attributes that a cut replaced, so that it can be undone.

    Attributes:
        tensors: Name -> (old tensor, new tensor).
        places: Name -> the (module, attribute) pairs that hold the tensor.
        sizes: The module, the attribute and the old value of each size that changed.
    """

    tensors: dict[str, tuple[Tensor, Tensor]]
    places: dict[str, list[tuple[nn.Module, str]]] = field(default_factory=dict)
    sizes: list[tuple[nn.Module, str, Any]] = field(default_factory=list)

    def set_sizes(self, owner: nn.Module, sizes: Mapping[str, Size]) -> None:
        """Set size attributes of a module, and record the old values."""
        for attribute, new in sizes.items():
            old = getattr(owner, attribute)
            if old != new:
                self.sizes.append((owner, attribute, old))
                set_size(owner, attribute, new)

    def undo(self) -> None:
        """Restore the old tensors and sizes, the latest first. An error in one does not stop the others."""
        with ExitStack() as stack:
            for name, places in self.places.items():
                stack.callback(assign_tensor, places, self.tensors[name][0])
            for owner, attribute, old in self.sizes:
                stack.callback(store_size, owner, attribute, old)


def cut_module(module: nn.Module, keep: KeptIndices, size_attributes: Mapping[tuple[str, str], Size]) -> Swap:
    """Replace parameters, buffers and gradients by smaller ones, and update the size attributes. All or nothing.

    Args:
        module: The module to cut, in place.
        keep: The indices that stay.
        size_attributes: (module path, attribute) -> new size, for attributes of the user's own modules.

    Returns:
        A record of what was replaced, which can undo it.

    Raises:
        SurgeryError: A parametrization fails at the new size, or torch has no such layer. The module is unchanged.
    """
    owners_by_id, scratch = tensor_owners(module), Scratch()
    old_tensors: dict[str, Tensor] = {name: attrgetter(name)(module) for name in keep}
    swap = Swap({name: (old, _cut_tensor(old, keep[name], scratch)) for name, old in old_tensors.items()})
    owners = {id(owner): owner for old, _ in swap.tensors.values() for owner, _ in owners_by_id[id(old)]}
    for _, m in parametrized_modules(module):
        if any(id(p) in owners for p in m.parametrizations.modules()):
            owners[id(m)] = m
    row_counts = {key: _count_rows(owner) for key, owner in owners.items()}
    try:
        for name, (old, new) in swap.tensors.items():
            swap.places[name] = owners_by_id[id(old)]
            assign_tensor(swap.places[name], new)
        for key, owner in owners.items():
            swap.set_sizes(owner, _group_counts(owner, row_counts[key]))
            swap.set_sizes(owner, layer_sizes(owner))  # after the groups, because in_channels depends on them
        for (path, attribute), size in size_attributes.items():
            owner = module.get_submodule(path)
            swap.set_sizes(owner, {attribute: size})
            owner.__dict__.setdefault(SIZES_ATTRIBUTE, set()).add(attribute)
    except BaseException:
        swap.undo()
        raise
    return swap


def _cut_tensor(old: Tensor, keep: Mapping[int, Tensor], scratch: Scratch) -> Tensor:
    if old.is_meta and old.grad is None:
        return meta_like(old, [keep[d].numel() if d in keep and n > 1 else n for d, n in enumerate(old.shape)])
    new = select_entries(old, keep, scratch)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
        new.grad = None if old.grad is None else select_entries(old.grad, keep, scratch)
    return new


def _count_rows(module: nn.Module) -> int:
    return next(iter(weight_shape(module)), 0)


def _group_counts(module: nn.Module, old_rows: int) -> dict[str, int]:
    """Return the number of groups after a cut by whole groups, from the number of weight rows before the cut."""
    match module:
        case nn.GroupNorm():
            return {"num_groups": module.num_groups * _count_rows(module) // old_rows}
        case nn.modules.conv._ConvNd() if module.groups > 1 and module.groups >= module.in_channels // module.groups:
            return {"groups": module.groups * _count_rows(module) // old_rows}
    return {}
