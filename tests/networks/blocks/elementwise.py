"""Blocks that give channels other values, another order, or leave some out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.networks.blocks import ALL, BOTH, Block, Made, Options, Pick, State, Word, divided, divisors, raw

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu_": lambda x: functional.relu_(x.clone()),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "leaky": functional.leaky_relu,
    "hardswish": functional.hardswish,
    "softplus": functional.softplus,
    "square": lambda x: x * x / 4,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x + 0.2),
    "clamp": lambda x: x.clamp(-2, 2),
    "dropout": lambda x: functional.dropout(x, 0.5, training=False),
    "masked": lambda x: x.masked_fill(x < 0, 0.3),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "noncontiguous": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "plus-one": lambda x: x + torch.ones_like(x),
    "checkpointed": lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
    "reads": lambda x: x.relu() if bool(x.isfinite().all()) else x,
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.3),
    "written": lambda x: torch.zeros_like(x).copy_(x).mul_(2).tanh_(),
    "out": lambda x: torch.mul(x, 0.5, out=torch.empty_like(x)),
    "vmap": lambda x: torch.vmap(torch.sigmoid)(x),
    "half-way": lambda x: x.view(torch.int64).view(torch.float64),
    "times-own": lambda x: x * torch.full(x.shape[1:], 0.7, dtype=x.dtype),
}


def activation(s: State, name: str) -> Made:
    return Block(lambda self, x: ACTIVATIONS[name](x)), s


def prelu(s: State) -> Made:
    return nn.PReLU(s.width), s


def glu(s: State, how: str) -> Made:
    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "glu":
            return functional.glu(x, s.dim)
        if how == "chunk":
            a, b = x.chunk(2, s.dim)
        elif how == "slice":
            half = x.shape[s.dim] // 2
            a, b = x.narrow(s.dim, 0, half), x.narrow(s.dim, half, half)
        elif how == "unflatten":
            a, b = x.unflatten(s.dim, (2, -1)).unbind(s.dim)
        else:  # every other channel
            a, b = x.transpose(0, s.dim)[::2].transpose(0, s.dim), x.transpose(0, s.dim)[1::2].transpose(0, s.dim)
        return a * b.sigmoid()

    return Block(forward), replace(s, width=s.width // 2)


def scale(s: State, how: str) -> Made:
    """A raw parameter with an entry a channel, an entry an entry, or one entry."""

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "product" | "full" | "one" | "scalar":
                return x * self.weight
            case "sum":
                return x + self.weight
            case "buffer":
                return x * self.constant
            case "addcmul":
                return torch.addcmul(self.weight, x, self.weight.exp())
            case "highway":
                t = self.weight.sigmoid()
                return t * x.tanh() + (1 - t) * x
        return x / (1 + self.weight.abs())

    shapes = {"one": (1,), "scalar": (), "full": tuple(s.example(1).shape[1:])}
    return Block(forward, weight=raw(*shapes.get(how, s.along)), constant=torch.empty(s.along)), s


def reorder(s: State, how: str, k: int) -> Made:
    """The same channels in another order."""
    d = s.dim

    def forward(self: Any, x: Tensor) -> Tensor:
        n = x.shape[d]
        match how:
            case "roll":
                return x.roll(k, d)
            case "flip":
                return x.flip(d)
            case "index":
                return x.index_select(d, self.order)
            case "getitem":
                return x[:, self.order] if d == 1 else x[:, :, self.order]
            case "swap":
                return torch.cat([x.narrow(d, k, n - k), x.narrow(d, 0, k)], d)
            case "halves":
                return torch.cat(x.chunk(2, d)[::-1], d)
            case "thirds":
                return torch.cat(x.chunk(3, d)[::-1], d)
            case "unbound":
                return torch.stack(x.unbind(d)[::-1], d)
            case "even-odd":
                first = x.transpose(0, d)
                return torch.cat([first[::2], first[1::2]]).transpose(0, d)
            case _:
                return torch.cat(x.split([k, n - k], d)[::-1], d)

    return Block(forward, order=torch.arange(s.width - 1, -1, -1)), s


def _reorder(pick: Pick, s: State) -> Options:
    ways = ["roll", "flip", "index", "getitem", "swap", "split", "thirds", "unbound"] + ["halves", "even-odd"] * (
        s.width % 2 == 0
    )
    return pick(ways), pick(range(1, s.width))


PARTS = (
    "drop", "pad", "every-other", "double", "write", "assign", "select", "split", "tile", "interleave", "constant-pad",
    "negative-pad", "tail", "few", "accumulate", "index-add", "scatter",
)  # fmt: skip


def part(s: State, how: str, k: int) -> Made:
    """Some of the channels are changed or left out, or others are put beside them."""
    d, width = (
        s.dim,
        {"drop": s.width - k, "pad": s.width + k, "every-other": (s.width + 1) // 2, "double": 2 * s.width},
    )
    width |= {"tile": 2 * s.width, "interleave": 2 * s.width, "constant-pad": s.width + k, "fold": s.width // k}
    width |= {"tail": s.width - k, "negative-pad": s.width - k, "few": 2, "sum": s.width // 2}

    def forward(self: Any, x: Tensor) -> Tensor:
        n = x.shape[d]
        match how:
            case "drop":
                return x.narrow(d, k, n - k)
            case "pad":
                return torch.cat([x, torch.zeros_like(x.narrow(d, 0, k))], d)
            case "every-other":
                return x.transpose(0, d)[::2].transpose(0, d)
            case "double":
                return torch.cat([x, x.relu()], d)
            case "tile":
                return x.repeat(*(2 if i == d else 1 for i in range(x.ndim)))
            case "interleave":
                return x.repeat_interleave(2, d)
            case "constant-pad" | "negative-pad":
                by = k if how == "constant-pad" else -k
                return functional.pad(x.movedim(d, -1), (0, by)).movedim(-1, d)
            case "fold":
                return x.unflatten(d, (k, -1)).sum(d)
            case "tail":
                return x.movedim(d, 0)[k - n :].movedim(0, d) if k < n else x
            case "few":
                return x[:, [0, k]] if d == 1 else x[:, :, [0, k]]
            case "sum":
                a, b = x.chunk(2, d)[:2]
                return a + b
            case "view-write":
                x = x.clone()
                x.unflatten(d, (-1, k)).mul_(self.weight.view(k, *s.along[1:]))
                return x
            case "accumulate":
                y = torch.zeros_like(x)
                for part in x.chunk(2, d):
                    y.narrow(d, 0, part.shape[d]).add_(part)
                return y
            case "index-add":
                return x.index_add(d, torch.tensor([0, k]), x.narrow(d, 0, 2))
            case "scatter":
                return x.scatter(d, torch.zeros_like(x, dtype=torch.long), 0.5)
            case "write":
                x = x.clone()
                x.narrow(d, 0, k).relu_()
                return x
            case "assign":
                y = torch.zeros_like(x)
                y.narrow(d, 0, k).copy_(x.narrow(d, 0, k).tanh())
                return x + y
            case "select":
                return x * x.select(d, k).unsqueeze(d).sigmoid()
            case _:
                a, b = x.split([k, n - k], d)
                return torch.cat([a.relu(), b], d)

    return Block(forward, weight=raw(k)), replace(s, width=width.get(how, s.width))


def _part(pick: Pick, s: State) -> Options:
    dividing = ("fold", "view-write") if len(divisors(s.width)) > 1 else ()
    even = ("sum",) if s.width % 2 == 0 else ()
    how = pick((*PARTS, *dividing, *even))
    if how in dividing:
        return how, pick(divisors(s.width)[:-1])
    k = pick(divisors(s.width, 1)[:-1]) if pick(BOTH) else pick(range(1, s.width))
    return how, min(k, s.width - 2)


def shuffle(s: State, groups: int, how: str) -> Made:
    """Channel shuffle."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "module":
            return functional.channel_shuffle(x, groups)
        c = x.shape[s.dim]
        d = s.dim
        before, after = x.shape[:d], x.shape[d + 1 :]
        if how == "written":
            return x.reshape(*before, groups, s.width // groups, *after).transpose(d, d + 1).reshape(x.shape)
        return x.reshape(*before, groups, c // groups, *after).transpose(d, d + 1).flatten(d, d + 1)

    return Block(forward), s


def _shuffle(pick: Pick, s: State) -> Options | None:
    options = divided(pick, s)
    return options and (*options, pick(["view", "written"] + ["module"] * (s.kind == "image" and len(s.sizes) > 1)))


WORDS: dict[str, Word] = {
    "activation": Word(ALL, activation, lambda pick, s: (pick(list(ACTIVATIONS)),)),
    "prelu": Word("vector image", prelu),
    "glu": Word(
        ALL,
        glu,
        lambda pick, s: (
            (pick(("glu", "chunk", "slice", "unflatten", "other")),) if s.width % 2 == 0 and s.width > 2 else None
        ),
    ),
    "scale": Word(
        ALL,
        scale,
        lambda pick, s: (
            pick(("product", "sum", "buffer", "addcmul", "quotient", "full", "one", "scalar", "highway")),
        ),
    ),
    "reorder": Word(ALL, reorder, _reorder),
    "part": Word(ALL, part, lambda pick, s: _part(pick, s) if s.width > 3 else None),
    "shuffle": Word(ALL, shuffle, _shuffle),
}
