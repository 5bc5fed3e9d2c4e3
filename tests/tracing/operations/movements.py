"""Operations that move entries: views, copies, lookups, and writes along space or rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.tracing.operations import Functions


def _written(x: Tensor, write: Any) -> Tensor:
    """A copy that was written into."""
    x = x.clone()
    write(x)
    return x


CONV2D: Functions = {
    "permute": lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
    "transpose": lambda x: x.transpose(1, 3).transpose(1, 3),
    "swap of height and width": lambda x: x.mT,
    "movedim": lambda x: x.movedim(1, -1).movedim(-1, 1),
    "swapaxes": lambda x: x.swapaxes(2, 3),
    "adjoint": lambda x: x.adjoint(),
    "view": lambda x: x.view(2, x.shape[1], -1),
    "reshape": lambda x: x.reshape(2, x.shape[1], 4, 9),
    "view_as": lambda x: x.view_as(x.sin()),
    "flatten": lambda x: x.flatten(2),
    "unflatten": lambda x: x.unflatten(2, (2, 3)).flatten(2, 3),
    "squeeze and unsqueeze": lambda x: x[:, :, :1].squeeze(2).unsqueeze(2),
    "expand": lambda x: x.mean(2, keepdim=True).expand(-1, -1, 4, -1),
    "expand_as": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
    "broadcast_to": lambda x: x[:, :, :1].broadcast_to(x.shape),
    "contiguous": lambda x: x.mT.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "flip": lambda x: x.flip(2, 3),
    "fliplr": lambda x: x.permute(2, 3, 0, 1).fliplr().permute(2, 3, 0, 1),
    "flip of channels": lambda x: x.flip(1),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "roll over space": lambda x: x.roll((1, 2), (2, 3)),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "repeat of channels": lambda x: x.repeat(1, 2, 1, 1),
    "tile": lambda x: x.tile(1, 1, 1, 2),
    "repeat_interleave over space": lambda x: x.repeat_interleave(2, 2),
    "kron": lambda x: torch.kron(x, torch.ones(1, 1, 2, 2, dtype=x.dtype)),
    "narrow": lambda x: x.narrow(2, 1, 3),
    "slice": lambda x: x[:, :, 1:-1, ::2],
    "select": lambda x: x[:, :, 0],
    "ellipsis and None": lambda x: x[..., None, 0],
    "chunk over space": lambda x: torch.cat(x.chunk(3, 2)[::-1], 3),
    "split over space": lambda x: x.split([2, 4], 2)[1],
    "tensor_split over space": lambda x: x.tensor_split(4, 2)[0],
    "hsplit and vsplit": lambda x: torch.cat(x.permute(2, 3, 0, 1).hsplit(2), 0).permute(2, 3, 0, 1),
    "unbind over space": lambda x: torch.stack(x.unbind(2), 3),
    "chunk of channels": lambda x: torch.mul(*x.chunk(2, 1)),
    "stack": lambda x: torch.stack([x, x.sin()], 2).flatten(2, 3),
    "cat over space": lambda x: torch.cat([x, x.sin()], 3),
    "cat of channels": lambda x: torch.cat([x, x.sin()], 1),
    "cat with zeros over space": lambda x: torch.cat([x, torch.zeros_like(x)], 3),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "diag_embed": lambda x: x[:, :, 0].diag_embed(),
    "trace of each map": lambda x: x.diagonal(0, 2, 3).sum(-1),
    "an index over space": lambda x: x[:, :, [3, 1, 1]],
    "two indices over space": lambda x: x[:, :, [3, 1], [0, 5]],
    "a mask over space": lambda x: x[:, :, torch.arange(6) > 2],
    "a mask over all of space": lambda x: x[:, :, torch.eye(6, dtype=torch.bool)],
    "index_select over space": lambda x: x.index_select(3, torch.tensor([2, 0])),
    "gather over space": lambda x: x.gather(2, x.argsort(2)[:, :, :2]),
    "take_along_dim over space": lambda x: torch.take_along_dim(x, x.argmax(3, keepdim=True), 3),
    "shuffled rows of the batch": lambda x: x[torch.tensor([1, 0])],
    "a slice is written": lambda x: _written(x, lambda y: y[:, :, 1:3].fill_(0.5)),
    "a slice is assigned": lambda x: _written(x, lambda y: y.__setitem__((slice(None), slice(None), 0), 1.0)),
    "a slice is copied": lambda x: _written(x, lambda y: y[:, :, 0].copy_(x[:, :, 1])),
    "a slice is doubled": lambda x: _written(x, lambda y: y[:, :, ::2].mul_(2)),
    "an index is assigned": lambda x: _written(x, lambda y: y.__setitem__((slice(None), slice(None), [0, 2]), 1.0)),
    "an index takes values": lambda x: _written(x, lambda y: y.__setitem__(([1], slice(None)), x[:1].sin())),
    "index_fill over space": lambda x: x.index_fill(2, torch.tensor([0, 2]), 0.5),
    "index_copy over space": lambda x: x.index_copy(2, torch.tensor([0, 2]), x[:, :, 3:5]),
    "index_add over space": lambda x: x.index_add(2, torch.tensor([0, 0]), x[:, :, 3:5], alpha=2),
    "scatter over space": lambda x: torch.zeros_like(x).scatter(2, x.argsort(2), x),
    "scatter of a number over space": lambda x: x.scatter(2, x.argmax(2, keepdim=True), 3.0),
    "scatter_add over space": lambda x: x.scatter_add(3, x.argsort(3), x),
    "scatter_reduce over space": lambda x: x.scatter_reduce(2, x.argsort(2), x.exp(), "prod"),
    "select_scatter": lambda x: x.select_scatter(x[:, :, 0].sin(), 2, 1),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :, :2].sin(), 2, 3, 5),
    "masked columns of space": lambda x: x.masked_fill(torch.eye(6, dtype=torch.bool), 0.0),
    "a patch is written into a buffer": lambda x: _written(
        x.new_zeros(2, x.shape[1], 8, 8), lambda y: y[:, :, 1:7, 1:7].copy_(x)
    ),
    "a grid is added": lambda x: x + torch.linspace(0, 1, 6, dtype=x.dtype)[:, None],
}
