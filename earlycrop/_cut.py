"""The plain part of surgery: which indices of each tensor stay, and which sizes in modules' attributes follow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop._meta import hollow
from earlycrop._modules import SurgeryError, places, put, tensors
from earlycrop._parametrized import parametrized, weight_shape
from earlycrop.graph import Graph, Removed

OWN = "_sizes_that_followed_a_cut"
"""Where a module of the user's own notes its attributes that a cut has changed, so that they can be saved."""

Keep = dict[str, dict[int, Tensor]]
"""Tensor name -> dimension -> the indices that stay, where some go."""


def keep_of(graph: Graph, removed: Removed) -> Keep:
    """The indices that stay when the nodes in ``removed`` go."""
    kept = np.append(~removed, True)
    keep: Keep = {}
    for slot in graph.slots:
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


def selected(tensor: Tensor, keep: Mapping[int, Tensor], scratch: Scratch | None = None) -> Tensor:
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
                _set(owner, attribute, value)

    def undo(self) -> None:
        with ExitStack() as each:  # in reverse, and whatever another one raises
            for name, where in self.spots.items():
                each.callback(put, where, self.tensors[name][0])
            for owner, attribute, value in self.sizes:
                each.callback(_set, owner, attribute, value)


def _set(owner: nn.Module, attribute: str, value: int) -> None:
    if attribute in vars(owner):  # as all of torch's own: past its long way of setting one
        vars(owner)[attribute] = value
    else:
        setattr(owner, attribute, value)


def cut_module(module: nn.Module, keep: Keep, own: Mapping[tuple[str, str], int]) -> Swap:
    """Put smaller parameters and buffers in place, with their gradients. Sizes in attributes follow.

    ``own``: (module, attribute) -> size, for attributes of the modules' own.
    Where that fails, everything is put back.
    """
    named, where, scratch = tensors(module), places(module), Scratch()
    swap = Swap({name: (named[name], _smaller(named[name], dims, scratch)) for name, dims in keep.items()}, {}, [])
    owners = {id(owner): owner for old, _ in swap.tensors.values() for owner, _ in where[id(old)]}
    owners |= {id(m): m for _, m in parametrized(module) if any(id(p) in owners for p in m.parametrizations.modules())}
    rows = {key: _rows(owner) for key, owner in owners.items()}
    try:
        for name, (old, new) in swap.tensors.items():
            swap.spots[name] = where[id(old)]
            put(swap.spots[name], new)
        for key, owner in owners.items():
            swap.hold(owner, _groups(owner, rows[key]))
            swap.hold(owner, sizes(owner))  # after the groups: in_channels are counted in them
        for (path, attribute), value in own.items():
            owner = module.get_submodule(path)
            swap.hold(owner, {attribute: value})
            owner.__dict__.setdefault(OWN, set()).add(attribute)
    except BaseException:
        swap.undo()
        raise
    return swap


def _smaller(old: Tensor, dims: Mapping[int, Tensor], scratch: Scratch) -> Tensor:
    if old.is_meta and old.grad is None:
        shape = [dims[d].numel() if d in dims and n > 1 else n for d, n in enumerate(old.shape)]
        return hollow(old, shape)
    new = selected(old, dims, scratch)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
        new.grad = None if old.grad is None else selected(old.grad, dims, scratch)
    return new


def _rows(module: nn.Module) -> int:
    return next(iter(weight_shape(module)), 0)


def _groups(module: nn.Module, rows: int) -> dict[str, int]:
    """Groups go with their channels where a convolution is cut by whole groups (see ``_products._grouped``)."""
    match module:
        case nn.GroupNorm():
            return {"num_groups": module.num_groups * _rows(module) // rows}
        case nn.modules.conv._ConvNd() if module.groups > 1 and module.groups >= module.in_channels // module.groups:
            return {"groups": module.groups * _rows(module) // rows}
    return {}


_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("out_features", "in_features")),
    (nn.modules.conv._ConvNd, ("out_channels", "in_channels")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_channels",)),
    (nn.Embedding, ("num_embeddings", "embedding_dim")),
    (nn.EmbeddingBag, ("num_embeddings", "embedding_dim")),
    (nn.RNNBase, ("input_size", "hidden_size", "proj_size")),
    (nn.RNNCellBase, ("input_size", "hidden_size")),
)


def size_names(module: nn.Module) -> tuple[str, ...]:
    """The attributes of torch's own modules that hold a size, whether or not ``sizes`` can tell it."""
    return next((names for kind, names in _SIZES if isinstance(module, kind)), ())


def sizes(module: nn.Module) -> dict[str, int]:
    """The attributes of torch's own modules that hold a size, as the module's parameters have it now."""
    shape = weight_shape(module)
    match module:
        case nn.Linear():
            return {"out_features": shape[0], "in_features": shape[1]}
        case nn.modules.conv._ConvTransposeNd():
            return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
        case nn.modules.conv._ConvNd():
            return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}
        case nn.modules.batchnorm._NormBase():
            held = shape or (() if module.running_mean is None else tuple(module.running_mean.shape))
            return {"num_features": held[0]} if held else {}
        case nn.GroupNorm() if shape:
            return {"num_channels": shape[0]}
        case nn.Embedding() | nn.EmbeddingBag():
            return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
        case nn.RNNBase():
            gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            own = dict(module.named_parameters(recurse=False))
            projection = {"proj_size": own["weight_hr_l0"].shape[0]} if module.proj_size else {}
            hidden = own["weight_hh_l0"].shape[0] // gates
            if projection and hidden <= projection["proj_size"]:
                raise SurgeryError(
                    f"an LSTM with {hidden} hidden units and {projection['proj_size']} projections is none that torch "
                    "can run: remove fewer units, or more projections"
                )
            return {"input_size": own["weight_ih_l0"].shape[1], "hidden_size": hidden, **projection}
        case nn.RNNCellBase():
            return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    return {}
