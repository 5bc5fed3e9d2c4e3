"""The plain part of surgery: which indices of each tensor stay, and which sizes in modules' attributes follow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask
from earlycrop.utils.layer_sizes import SIZES_ATTRIBUTE, layer_sizes
from earlycrop.utils.meta import meta_like
from earlycrop.utils.modules import assign_tensor, tensor_owners, tensors_by_name
from earlycrop.utils.parametrizations import parametrized_modules, weight_shape

KeptIndices = dict[str, dict[int, Tensor]]
"""Tensor name -> dimension -> the indices that stay, where some go."""


def kept_indices(graph: Graph, removed: NodeMask) -> KeptIndices:
    """The indices that stay when the nodes in ``removed`` go."""
    kept = np.append(~removed, True)
    keep: KeptIndices = {}
    for slot in graph.axes:
        stay = kept[slot.nodes]
        if not stay.all():
            keep.setdefault(slot.tensor, {})[slot.dim] = torch.from_numpy(stay.nonzero()[0])
    return keep


class Scratch:
    """Memory for what lies between two selections of one tensor: touching fresh pages costs more than the copy."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def selected(self, tensor: Tensor, dim: int, index: Tensor) -> Tensor:
        """``tensor.index_select(dim, index)``, good until the next call."""
        shape = [index.numel() if d == dim else n for d, n in enumerate(tensor.shape)]
        key, count = (tensor.dtype, tensor.device), prod(shape)
        if key not in self._held or self._held[key].numel() < count:
            self._held[key] = tensor.new_empty(count)
        return torch.index_select(tensor, dim, index, out=self._held[key][:count].view(shape))


def select_entries(tensor: Tensor, keep: Mapping[int, Tensor], scratch: Scratch | None = None) -> Tensor:
    """The entries of ``tensor`` that stay, in the same order in memory (channels last, say).

    Dimensions that are 1 wide broadcast, and stay whole.
    """
    small = tensor.detach()
    cut = [(dim, index.to(small.device)) for dim, index in keep.items() if small.shape[dim] > 1]
    if small.layout != torch.strided or small.is_contiguous():
        if len(cut) == 2 and scratch is not None and small.layout == torch.strided:
            small = scratch.selected(small, *cut.pop(0))
        for dim, index in cut:
            small = small.index_select(dim, index)
        return small
    strides = small.stride()
    order = sorted(range(small.ndim), key=lambda d: -strides[d])
    moved = small.permute(order)
    for dim, index in cut:
        moved = moved.index_select(order.index(dim), index)
    return moved.permute([order.index(d) for d in range(small.ndim)])


@dataclass(frozen=True)
class Swap:
    """What a cut put in place of what, so that it can be taken back."""

    tensors: dict[str, tuple[Tensor, Tensor]]
    """Name -> (old, new)."""
    spots: dict[str, list[tuple[nn.Module, str]]]
    sizes: list[tuple[nn.Module, str, int]]
    """Module, attribute, old value."""

    def hold(self, owner: nn.Module, values: Mapping[str, int]) -> None:
        for attribute, value in values.items():
            before = getattr(owner, attribute)
            if before != value:
                self.sizes.append((owner, attribute, before))
                _set_attribute(owner, attribute, value)

    def undo(self) -> None:
        with ExitStack() as each:  # in reverse, and whatever another one raises
            for name, where in self.spots.items():
                each.callback(assign_tensor, where, self.tensors[name][0])
            for owner, attribute, value in self.sizes:
                each.callback(_set_attribute, owner, attribute, value)


def _set_attribute(owner: nn.Module, attribute: str, value: int) -> None:
    if attribute in vars(owner):  # as all of torch's own: past its long way of setting one
        vars(owner)[attribute] = value
    else:
        setattr(owner, attribute, value)


def cut_module(module: nn.Module, keep: KeptIndices, own: Mapping[tuple[str, str], int]) -> Swap:
    """Put smaller parameters and buffers in place, with their gradients. Sizes in attributes follow.

    ``own``: (module, attribute) -> size, for attributes of the modules' own.
    Where that fails, everything is put back.
    """
    named, where, scratch = tensors_by_name(module), tensor_owners(module), Scratch()
    swap = Swap({name: (named[name], _cut_tensor(named[name], dims, scratch)) for name, dims in keep.items()}, {}, [])
    owners = {id(owner): owner for old, _ in swap.tensors.values() for owner, _ in where[id(old)]}
    owners |= {
        id(m): m for _, m in parametrized_modules(module) if any(id(p) in owners for p in m.parametrizations.modules())
    }
    rows = {key: _row_count(owner) for key, owner in owners.items()}
    try:
        for name, (old, new) in swap.tensors.items():
            swap.spots[name] = where[id(old)]
            assign_tensor(swap.spots[name], new)
        for key, owner in owners.items():
            swap.hold(owner, _group_sizes(owner, rows[key]))
            swap.hold(owner, layer_sizes(owner))  # after the groups: in_channels are counted in them
        for (path, attribute), value in own.items():
            owner = module.get_submodule(path)
            swap.hold(owner, {attribute: value})
            owner.__dict__.setdefault(SIZES_ATTRIBUTE, set()).add(attribute)
    except BaseException:
        swap.undo()
        raise
    return swap


def _cut_tensor(old: Tensor, dims: Mapping[int, Tensor], scratch: Scratch) -> Tensor:
    if old.is_meta and old.grad is None:
        shape = [dims[d].numel() if d in dims and n > 1 else n for d, n in enumerate(old.shape)]
        return meta_like(old, shape)
    new = select_entries(old, dims, scratch)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
        new.grad = None if old.grad is None else select_entries(old.grad, dims, scratch)
    return new


def _row_count(module: nn.Module) -> int:
    return next(iter(weight_shape(module)), 0)


def _group_sizes(module: nn.Module, rows: int) -> dict[str, int]:
    """Groups go with their channels where a convolution is cut by whole groups (see ``_products._grouped``)."""
    match module:
        case nn.GroupNorm():
            return {"num_groups": module.num_groups * _row_count(module) // rows}
        case nn.modules.conv._ConvNd() if module.groups > 1 and module.groups >= module.in_channels // module.groups:
            return {"groups": module.groups * _row_count(module) // rows}
    return {}
