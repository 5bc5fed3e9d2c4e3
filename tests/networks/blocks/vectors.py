"""Blocks of vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.networks.blocks import BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, divided, divisors


def vector_norm(s: State, how: str, option: Any) -> Made:
    match how:
        case "batch":
            return nn.BatchNorm1d(s.width, affine=option), s
        case "layer":
            return nn.LayerNorm(s.width, elementwise_affine=option), s
        case "rms":
            return nn.RMSNorm(s.width), s
    return nn.GroupNorm(option, s.width), s


def _vector_norm(pick: Pick, s: State) -> Options:
    how = pick(("batch", "batch", "layer", "group", "rms"))
    return how, (pick(divisors(s.width, 1)[:-1]) if how == "group" else pick(BOTH))


def unflatten(s: State, kind: str, k: int, how: str) -> Made:
    """A vector as an image of one dimension with ``k`` positions, or as a sequence of ``k``."""
    shape = {"image": (-1, k), "sequence": (k, -1)}[kind]
    if how == "written":
        shape = (s.width // k, k) if kind == "image" else (k, s.width // k)
    return Block(lambda self, x: x.view(len(x), *shape)), State(kind, s.width // k, (k,))


def _unflatten(pick: Pick, s: State) -> Options | None:
    options = divided(pick, s)
    return options and (pick(("image", "sequence")), *options, pick(("free", "written")))


def maxout(s: State, k: int) -> Made:
    return Block(lambda self, x: x.unflatten(1, (-1, k)).amax(2)), replace(s, width=s.width // k)


def bilinear(s: State, rank: int, width: int, how: str) -> Made:
    """A product of two activations: entry by entry, a sum over one side, or an outer product."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if how == "product":
            return self.c(a * b)
        if how == "inner":
            return self.c(x) * (a * b).sum(1, keepdim=True)
        if how == "used-outer":
            return self.d((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)) + self.e(a)
        return self.d((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1))

    out = nn.Linear(rank if how == "product" else s.width, width)
    parts = {"a": nn.Linear(s.width, rank), "b": nn.Linear(s.width, rank), "c": out}
    return Block(forward, **parts, d=nn.Linear(rank * rank, width), e=nn.Linear(rank, width)), replace(s, width=width)


def cell(s: State, width: int, kind: str, steps: int) -> Made:
    """A recurrent cell in a loop over the same input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.cell.hidden_size) if kind == "lstm" else None
        state = (h, h) if kind == "lstm" else h
        for _ in range(steps):
            state = self.cell(x, state)
        return state[0] if kind == "lstm" else state

    made = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind](s.width, width)
    return Block(forward, cell=made), replace(s, width=width)


def hyper(s: State, width: int) -> Made:
    """A matrix that the input itself gives."""

    def forward(self: Any, x: Tensor) -> Tensor:
        w = self.generate(x).view(len(x), self.value.out_features, -1)
        return torch.bmm(self.value(x).unsqueeze(1), w).squeeze(1)

    return Block(forward, generate=nn.Linear(s.width, 3 * width), value=nn.Linear(s.width, 3)), replace(s, width=width)


def unbatched(s: State, width: int, how: str) -> Made:
    """The batch as the time of one sequence."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "conv":
            return self.layer(x.t()).t()
        return self.layer(x, x, x)[0] if how == "attention" else self.layer(x)[0]

    made: dict[str, Callable[[], nn.Module]] = {
        "lstm": lambda: nn.LSTM(s.width, width),
        "gru": lambda: nn.GRU(s.width, width, bias=False, bidirectional=True),
        "conv": lambda: nn.Conv1d(s.width, width, 3, padding=1),
        "attention": lambda: nn.MultiheadAttention(s.width, 1),
    }
    out = {"gru": 2 * width, "attention": s.width}.get(how, width)
    return Block(forward, layer=made[how]()), replace(s, width=out)


def tree(s: State, width: int) -> Made:
    """torch.nn.Bilinear and a table looked up by the largest entry."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.bilinear(x, x.tanh()) + self.table(x.argmax(1) % 3)

    return Block(forward, bilinear=nn.Bilinear(s.width, s.width, width), table=nn.Embedding(3, width)), replace(
        s, width=width
    )


WORDS: dict[str, Word] = {
    "vector-norm": Word("vector", vector_norm, _vector_norm),
    "unflatten": Word("vector", unflatten, _unflatten),
    "maxout": Word("vector", maxout, divided),
    "bilinear": Word(
        "vector",
        bilinear,
        lambda pick, s: (pick((3, 4, 6)), pick(WIDTHS), pick(("product", "inner", "outer", "used-outer"))),
    ),
    "cell": Word("vector", cell, lambda pick, s: (pick(WIDTHS), pick(("lstm", "gru", "rnn")), pick((1, 3)))),
    "hyper": Word("vector", hyper, lambda pick, s: (pick(WIDTHS),)),
    "unbatched": Word("vector", unbatched, lambda pick, s: (pick(WIDTHS), pick(("lstm", "gru", "conv", "attention")))),
    "tree": Word("vector", tree, lambda pick, s: (pick(WIDTHS),)),
}
