"""Blocks that mix the channels: matrices in the ways of writing them, gates, norms over channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.networks.blocks import ALL, BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, raw


def over_channels(s: State, how: str) -> Made:
    """What mixes the channels without a matrix: norms over them, a softmax, a sum."""
    d = s.dim

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "rms":
                return x * (x.square().mean(d, keepdim=True) + 1e-3).rsqrt() * self.weight
            case "layer":
                y = x.transpose(d, -1)
                return functional.layer_norm(y, y.shape[-1:]).transpose(d, -1) * self.weight
            case "softmax":
                return x.softmax(d)
            case "max":
                return x - x.amax(d, keepdim=True)
            case "unit":
                return functional.normalize(x, dim=d)
            case "local":
                return functional.local_response_norm(x.movedim(d, 1).contiguous(), 3).movedim(1, d)
            case "everything":
                return x / (x.abs().mean() + 1)
            case "batch":
                return (x - x.mean(0)) / (x.var(0, unbiased=False) + 0.1).sqrt()
            case "neighbours":
                y = x.movedim(d, -1).reshape(-1, 1, x.shape[d])
                return x * self.conv(y).sigmoid().reshape(x.movedim(d, -1).shape).movedim(-1, d)
            case "cumsum":
                return x.cumsum(d)
            case "sort":
                return x.sort(d).values
            case _:
                return x - x.mean(d, keepdim=True)

    return Block(forward, weight=raw(*s.along), conv=nn.Conv1d(1, 1, 3, padding=1)), s


def other_softmax(s: State) -> Made:
    """A softmax over the last dimension that is not the channels'."""
    return Block(lambda self, x: x.softmax(1 if s.kind == "sequence" else -1) * 3), s


MATRICES = (
    "einsum", "einsum-t", "F.linear", "product", "low-rank", "cat", "chunk", "cosine", "tensordot", "standardised",
    "masked", "addmm", "selected", "kron", "stack",
)  # fmt: skip


def matrix(s: State, width: int, how: str) -> Made:
    """A product with a raw matrix along the channels, in the ways of writing one."""
    names = {1: "b", 2: "bx", 3: "bxy", 4: "bxyz"}[len(s.sizes) + 1]
    inner = names[0] + ("c" + names[1:] if s.dim == 1 else names[1:] + "c")

    def forward(self: Any, x: Tensor) -> Tensor:
        w = self.weight  # (width, C)
        if how == "einsum":
            return torch.einsum(f"{inner},oc->{inner.replace('c', 'o')}", x, w)
        if how == "einsum-t":
            return torch.einsum(f"oc,{inner}->{inner.replace('c', 'o')}", w, x)
        y = x.movedim(s.dim, -1)
        match how:
            case "F.linear":
                y = functional.linear(y, w, self.bias)
            case "product":
                y = y @ w.t() + self.bias
            case "low-rank":
                y = y @ w.t() + y @ (self.a @ self.b)
            case "cat":
                y = functional.linear(y, torch.cat([w, self.b.t().contiguous().view(width, -1) @ self.a.t()]))[
                    ..., :width
                ]
            case "chunk":
                first, second = w.chunk(2, 1)
                y = torch.add(*(part @ v.t() for part, v in zip(y.chunk(2, -1), (first, second), strict=True)))
            case "cosine":
                y = functional.linear(functional.normalize(y, dim=-1), functional.normalize(w, dim=1))
            case "tensordot":
                y = torch.tensordot(y, w, ([y.ndim - 1], [1]))
            case "standardised":
                y = functional.linear(y, (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True, unbiased=False) + 0.1))
            case "masked":
                y = functional.linear(y, w * self.mask, self.bias)
            case "addmm":
                y = torch.addmm(self.bias, y.reshape(-1, y.shape[-1]), w.t()).view(*y.shape[:-1], -1)
            case "selected":
                y = functional.linear(y, w[self.order])
            case "kron":
                y = functional.linear(y, w.abs().sqrt() * w.sign() * self.bias.unsqueeze(1))
            case "stack":
                y = torch.stack([y @ w.t(), y @ w.t().roll(1, 0)]).sum(0)
        return y.movedim(-1, s.dim)

    parts = {"weight": raw(width, s.width), "bias": raw(width), "a": raw(s.width, 3), "b": raw(3, width)}
    buffers = {"mask": torch.empty(width, s.width), "order": torch.arange(width).flip(0)}
    return Block(forward, **parts, **buffers), replace(s, width=width)


def tied(s: State, width: int) -> Made:
    """Up by a matrix and down by the same one, transposed."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.up(x.movedim(s.dim, -1)).relu()
        return functional.linear(y, self.up.weight.t(), self.bias).movedim(-1, s.dim)

    return Block(forward, up=nn.Linear(s.width, width), bias=raw(s.width)), s


def gate(s: State, width: int, how: str) -> Made:
    """Squeeze and excitation: the mean over everything but channels, two layers, a product."""
    dims = tuple(d for d in range(1, len(s.sizes) + 2) if d != s.dim)

    def forward(self: Any, x: Tensor) -> Tensor:
        pooled = (x.amax(dims) if how == "max" else x.mean(dims)) if dims else x
        g = self.up(self.down(pooled).relu()).sigmoid()
        for d in dims:
            g = g.unsqueeze(d)
        return x + g.expand_as(x) if how == "sum" else x * g

    return Block(forward, down=nn.Linear(s.width, width), up=nn.Linear(width, s.width)), s


def linear(s: State, width: int, bias: bool) -> Made:
    return nn.Linear(s.width, width, bias), replace(s, width=width)


def parametrized(s: State, width: int, how: str) -> Made:
    layer = nn.Linear(s.width, width)
    made = {"weight": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm}[how](layer)
    return made, replace(s, width=width)


def film(s: State, how: str) -> Made:
    """Scaled, shifted or widened by the second input, a sequence of 6 channels."""

    def forward(self: Any, x: Tensor, context: Tensor) -> Tensor:
        c = self.map(context.mean(1))
        for d in range(1, x.ndim):
            if d != s.dim:
                c = c.unsqueeze(d)
        if how == "cat":
            return torch.cat([x, c.expand(*x.shape[: s.dim], -1, *x.shape[s.dim + 1 :])], s.dim)
        a, b = c.chunk(2, s.dim)
        return x * a + b

    width = 3 if how == "cat" else 2 * s.width
    return Block(forward, True, map=nn.Linear(6, width)), replace(s, width=s.width + 3 if how == "cat" else s.width)


def _width(pick: Pick, s: State) -> Options:
    return (pick(WIDTHS),)


WORDS: dict[str, Word] = {
    "over-channels": Word(
        ALL,
        over_channels,
        lambda pick, s: (
            pick(
                [
                    "rms",
                    "layer",
                    "softmax",
                    "max",
                    "unit",
                    "cumsum",
                    "sort",
                    "mean",
                    "everything",
                    "batch",
                    "neighbours",
                ]
                + ["local"] * (s.kind != "vector")
            ),
        ),
    ),
    "softmax": Word("image sequence", other_softmax),
    "matrix": Word(
        ALL, matrix, lambda pick, s: (pick(WIDTHS), pick([m for m in MATRICES if m != "chunk" or s.width % 2 == 0]))
    ),
    "tied": Word(ALL, tied, _width),
    "gate": Word(ALL, gate, lambda pick, s: (pick(WIDTHS), pick(("mean", "max", "sum")))),
    "linear": Word("vector sequence", linear, lambda pick, s: (pick(WIDTHS), pick(BOTH))),
    "parametrized": Word("vector sequence", parametrized, lambda pick, s: (pick(WIDTHS), pick(("weight", "spectral")))),
    "film": Word(ALL, film, lambda pick, s: (pick(("cat", "scale")),), context=True),
}
