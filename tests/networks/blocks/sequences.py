"""Blocks of sequences: recurrent layers, torch's attention, mixing over time, and ways to other kinds of states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.networks.blocks import BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, divisors, raw


def torch_attention(s: State, heads: int, how: str) -> Made:
    if how == "module":
        layer: nn.Module = nn.MultiheadAttention(s.width, heads, batch_first=True)
        return Block(lambda self, x: self.attention(x, x, x, need_weights=False)[0], attention=layer), s
    first = how.endswith("first")
    layer = nn.TransformerEncoderLayer(s.width, heads, 10, 0.0, "gelu", batch_first=True, norm_first=first)
    if how == "stack":
        layer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    if how == "decoder":
        layer = nn.TransformerDecoderLayer(s.width, heads, 10, 0.0, batch_first=True)
        return Block(lambda self, x: self.layer(x, x.flip(1)), layer=layer), s
    return layer, s


def rnn(s: State, width: int, kind: str, layers: int, both: bool, projection: int, how: str) -> Made:
    """Outputs at every step, the last states, or both; batch or time first; packed."""
    first = how != "time-first"

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "packed":
            lengths = torch.tensor([x.shape[1], *[max(x.shape[1] - 1, 1)] * (len(x) - 1)], device="cpu")
            packed = pack_padded_sequence(x, lengths, batch_first=True)
            return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        if how == "time-first":
            return self.rnn(x.transpose(0, 1))[0].transpose(0, 1)
        if how == "given":  # a first state that is learned
            h = self.start.expand(-1, len(x), -1).contiguous()
            return self.rnn(x, (h, h) if kind == "lstm" else h)[0]
        output, state = self.rnn(x)
        if how == "outputs":
            return output
        h = state[0] if kind == "lstm" else state
        return h[-1] if how == "last" else h.transpose(0, 1).flatten(1)

    make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
    options = {"proj_size": projection} if projection else {}
    layer = make(s.width, width, layers, batch_first=first, bidirectional=both, **options)
    out = (projection or width) * (1 + both)
    block = Block(forward, rnn=layer, start=raw(layers * (1 + both), 1, width))
    if how == "last":
        return block, State("vector", projection or width)
    return block, State("vector", out * layers) if how == "states" else replace(s, width=out)


def _rnn(pick: Pick, s: State) -> Options:
    kind, width = pick(("lstm", "gru", "rnn")), pick(WIDTHS)
    projection = pick((0, 0, 3)) if kind == "lstm" else 0
    ways = ["outputs", "outputs", "time-first", "last", "states"] + ["given"] * (not projection)
    ways += ["packed"] * (s.sizes[0] > 1)
    return width, kind, pick((1, 2)), pick(BOTH), projection, pick(ways)


def cells(s: State, width: int, kind: str) -> Made:
    """A cell in a Python loop over time."""

    def forward(self: Any, x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state[0] if kind == "lstm" else state)
        return torch.stack(outputs, 1)

    make = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind]
    return Block(forward, cell=make(s.width, width)), replace(s, width=width)


def norm(s: State, how: str, affine: bool) -> Made:
    match how:
        case "layer":
            return nn.LayerNorm(s.width, elementwise_affine=affine), s
        case "rms":
            return nn.RMSNorm(s.width), s
        case "time":
            return nn.BatchNorm1d(s.sizes[0]), s
    layer = nn.BatchNorm1d(s.width, affine=affine)
    return Block(lambda self, x: self.norm(x.transpose(1, 2)).transpose(1, 2), norm=layer), s


def position(s: State, how: str) -> Made:
    """Learned positions, or a learned first token."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "token":
            return torch.cat([self.weight.expand(len(x), -1, -1), x], 1)
        if how == "embedding":
            return x + self.table(torch.arange(x.shape[1]))
        return x + self.weight

    t = s.sizes[0]
    shape = {"full": (t, s.width), "one": (1, t, s.width), "token": (1, 1, s.width), "embedding": (1,)}[how]
    block = Block(forward, weight=raw(*shape), table=nn.Embedding(t, s.width))
    return block, replace(s, sizes=(t + (how == "token"),))


def mix(s: State, how: str) -> Made:
    """Over time: a layer on the transposed sequence (MLP-Mixer), a convolution, a running sum, a fixed matrix."""
    t = s.sizes[0]

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "mixer":
                return x + self.down(self.up(x.transpose(1, 2)).relu()).transpose(1, 2)
            case "conv":
                return self.conv(x.transpose(1, 2)).transpose(1, 2)
            case "cumsum":
                return x.cumsum(1) / 2
            case "shift":
                return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
            case "einsum":
                return torch.einsum("st,ntc->nsc", self.matrix, x)
            case "roll":
                return x.roll(1, 1) + x.flip(1)
            case "fourier":
                return torch.fft.fft(x, dim=1).real / 2
            case "looked-up":
                return x[:, torch.arange(x.shape[1] - 1, -1, -1)]
            case "positions":
                return x * self.matrix[torch.arange(x.shape[1]), 0].unsqueeze(1)
        return x - x.mean(1, keepdim=True)

    parts = {"up": nn.Linear(t, 6), "down": nn.Linear(6, t), "conv": nn.Conv1d(s.width, s.width, 3, padding=1)}
    used = {"mixer": ("up", "down"), "conv": ("conv",)}.get(how, ())
    return Block(forward, matrix=raw(t, t), **{n: parts[n] for n in used}), s


def experts(s: State, width: int, count: int) -> Made:
    """A soft mixture: the weights are a softmax over the experts."""

    def forward(self: Any, x: Tensor) -> Tensor:
        every = torch.stack([m(x).relu() for m in self.experts], -1)
        return (every * self.choose(x).softmax(-1).unsqueeze(-2)).sum(-1)

    made = nn.ModuleList(nn.Linear(s.width, width) for _ in range(count))
    return Block(forward, experts=made, choose=nn.Linear(s.width, count)), replace(s, width=width)


def merge(s: State, how: str) -> Made:
    """Patch merging: two neighbours' channels side by side."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.cat([x[:, ::2], x[:, 1::2]], -1) if how == "cat" else x.reshape(len(x), x.shape[1] // 2, -1)

    return Block(forward), State("sequence", 2 * s.width, (s.sizes[0] // 2,))


def to_vector(s: State, how: str) -> Made:
    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "mean":
                return x.mean(1)
            case "max":
                return x.max(1).values
            case "last":
                return x[:, -1]
            case "first":
                return x.select(1, 0)
            case "query":
                return ((x @ self.query).softmax(1).unsqueeze(1) @ x).squeeze(1)
        return x.flatten(1)

    return Block(forward, query=raw(s.width)), State("vector", s.width * (s.sizes[0] if how == "flatten" else 1))


def to_image(s: State, shape: tuple[int, ...]) -> Made:
    return Block(lambda self, x: x.transpose(1, 2).unflatten(2, shape)), State("image", s.width, shape)


def _shapes(t: int) -> list[tuple[int, ...]]:
    return [(t,), *((d, t // d) for d in divisors(t)[:-1]), *([(2, 2, t // 4)] if t % 4 == 0 else [])]


def embedding(s: State, width: int) -> Made:
    return nn.Embedding(s.width, width), State("sequence", width, s.sizes)


WORDS: dict[str, Word] = {
    "torch-attention": Word(
        "sequence",
        torch_attention,
        lambda pick, s: (pick(divisors(s.width, 1)), pick(("module", "layer", "layer-first", "stack", "decoder"))),
    ),
    "rnn": Word("sequence", rnn, _rnn),
    "cells": Word("sequence", cells, lambda pick, s: (pick(WIDTHS), pick(("lstm", "gru", "rnn")))),
    "sequence-norm": Word("sequence", norm, lambda pick, s: (pick(("layer", "rms", "time", "batch")), pick(BOTH))),
    "position": Word("sequence", position, lambda pick, s: (pick(("full", "one", "token", "embedding")),)),
    "mix": Word(
        "sequence",
        mix,
        lambda pick, s: (
            pick(("mixer", "conv", "cumsum", "shift", "einsum", "centre", "roll", "fourier", "looked-up", "positions")),
        ),
    ),
    "experts": Word("sequence", experts, lambda pick, s: (pick(WIDTHS), pick((2, 3)))),
    "merge": Word(
        "sequence",
        merge,
        lambda pick, s: (pick(("cat", "view")),) if s.sizes[0] % 2 == 0 and s.width <= 12 else None,
    ),
    "sequence-to-vector": Word(
        "sequence",
        to_vector,
        lambda pick, s: (pick(["mean", "max", "last", "first", "query"] + ["flatten"] * (s.sizes[0] * s.width <= 96)),),
    ),
    "to-image": Word("sequence", to_image, lambda pick, s: (pick(_shapes(s.sizes[0])),)),
    "embedding": Word("tokens", embedding, lambda pick, s: (pick(WIDTHS),)),
}
