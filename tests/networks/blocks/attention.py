"""Attention in the ways that people write it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks.blocks import BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, divisors, raw

ATTENTION = (
    "matmul",
    "bmm",
    "einsum",
    "sdpa",
    "causal",
    "biased",
    "rotary",
    "linear",
    "normalised",
    "talking",
    "scaled",
    "slopes",
    "normed",
    "own-scale",
)


def _split(x: Tensor, heads: int, width: int, sizes: str) -> Tensor:
    """(N, T, heads * width) to (N, T, heads, width), with what is written into the forward: both, or one of them."""
    shape = {"heads": (heads, -1), "width": (-1, width), "both": (heads, width)}[sizes]
    return x.view(*x.shape[:2], *shape)


def _attend(self: Any, q: Tensor, k: Tensor, v: Tensor, how: str, scale: float) -> Tensor:
    """(N, T, H, D) from queries, keys and values of that shape."""
    if how == "einsum":
        weights = (torch.einsum("nqhd,nkhd->nhqk", q, k) * scale).softmax(-1)
        return torch.einsum("nhqk,nkhd->nqhd", weights, v)
    if how == "linear":
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        return torch.einsum("nqhd,nhde->nqhe", q, torch.einsum("nkhd,nkhe->nhde", k, v)) / k.shape[1]
    if how == "rotary":
        q, k = (
            t * self.cos + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * self.cos.flip(0) for t in (q, k)
        )
    if how == "normalised":
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
    if how == "normed":
        q, k = self.norm(q), self.norm(k)
    if how == "own-scale":
        scale = q.shape[-1] ** -0.5
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if how == "sdpa":
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    if how == "bmm":
        n, h = q.shape[:2]
        q, k, v = (t.reshape(n * h, *t.shape[2:]) for t in (q, k, v))
        y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * scale, -1), v)
        return y.view(n, h, *y.shape[1:]).transpose(1, 2)
    scores = q @ k.transpose(-1, -2) * scale
    if how == "causal":
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    if how == "biased":
        scores = scores + self.bias
    if how == "scaled":
        scores = scores * self.scale
    if how == "slopes":
        scores = scores - self.slopes * torch.arange(scores.shape[-1]).double()
    if how == "talking":
        scores = torch.einsum("nhqk,hg->ngqk", scores, self.mix)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def attention(s: State, width: int, heads: int, groups: int, d: int, how: str, sizes: str, fused: bool) -> Made:
    """``heads`` heads of ``d``, in ``groups`` groups of queries that share keys and values."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if fused:
            if sizes == "both":
                q, k, v = self.qkv(x).view(*x.shape[:2], 3, heads, d).unbind(2)
            else:
                q, k, v = (_split(t, heads, d, sizes) for t in self.qkv(x).chunk(3, -1))
        else:
            q = _split(self.q(x), heads, d, sizes)
            k, v = _split(self.k(x), groups, d, sizes), _split(self.v(x), groups, d, sizes)
        if groups < heads:
            k, v = (self.repeat(t, heads // groups) for t in (k, v))
        return self.out(_attend(self, q, k, v, how, d**-0.5).flatten(2))

    parts: dict[str, Any] = {"out": nn.Linear(heads * d, width)}
    if fused:
        parts["qkv"] = nn.Linear(s.width, 3 * heads * d)
    else:
        parts |= {"q": nn.Linear(s.width, heads * d)} | {n: nn.Linear(s.width, groups * d) for n in "kv"}
    if how == "rotary":
        parts["cos"] = torch.empty(d)
    if how == "normed":
        parts["norm"] = nn.LayerNorm(d)
    if how == "talking":
        parts["mix"] = raw(heads, heads)
    if how == "scaled":
        parts["scale"] = raw(heads, 1, 1)
    if how == "slopes":
        parts["slopes"] = torch.empty(heads, 1, 1)
    if how == "biased":
        parts["bias"] = raw(heads, s.sizes[0], s.sizes[0])
    block = Block(forward, **parts)
    block.repeat = _expanded if sizes == "width" else _interleaved
    return block, replace(s, width=width)


def _interleaved(t: Tensor, times: int) -> Tensor:
    return t.repeat_interleave(times, 2)


def _expanded(t: Tensor, times: int) -> Tensor:
    return t.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3)


def _attention(pick: Pick, s: State) -> Options:
    heads, d = pick((1, 2, 3, 4)), pick((2, 3, 4))
    how, fused = pick(ATTENTION), pick(BOTH)
    d = 4 if how == "rotary" else d
    groups = heads if fused else pick(divisors(heads, 1))
    return pick(WIDTHS), heads, groups, d, how, pick(("width", "width", "heads", "both")), fused


def cross_attention(s: State, heads: int, d: int, sizes: str) -> Made:
    """Queries from here, keys and values from the second input, a sequence of 6 channels."""

    def forward(self: Any, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (_split(m, heads, d, sizes) for m in (self.q(x), self.k(context), self.v(context)))
        return x + self.out(_attend(self, q, k, v, "matmul", d**-0.5).flatten(2))

    parts = {"q": nn.Linear(s.width, heads * d), "k": nn.Linear(6, heads * d), "v": nn.Linear(6, heads * d)}
    return Block(forward, True, **parts, out=nn.Linear(heads * d, s.width)), s


def per_head(s: State, width: int, heads: int, d: int, how: str) -> Made:
    """Attention with a matrix a head, in one tensor of three dimensions."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "einsum":
            q, k, v = (torch.einsum("ntc,hcd->nhtd", x, w) for w in (self.q, self.k, self.v))
            y = ((q @ k.mT / 2).softmax(-1)) @ v
            return torch.einsum("nhtd,hdo->nto", y, self.out)
        q, k, v = (x.unsqueeze(1) @ w for w in (self.q, self.k, self.v))
        return (((q @ k.mT / 2).softmax(-1)) @ v @ self.out).sum(1)

    parts = {n: raw(heads, s.width, d) for n in "qkv"}
    return Block(forward, **parts, out=raw(heads, d, width)), replace(s, width=width)


def latents(s: State, width: int, count: int) -> Made:
    """Learned queries look at the sequence, as in a Perceiver."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = self.q(self.start.expand(len(x), -1, -1)), self.k(x), self.v(x)
        return torch.bmm(torch.bmm(q, k.mT).softmax(-1), v)

    parts = {"q": nn.Linear(5, 4), "k": nn.Linear(s.width, 4), "v": nn.Linear(s.width, width)}
    return Block(forward, **parts, start=raw(1, count, 5)), State("sequence", width, (count,))


WORDS: dict[str, Word] = {
    "attention": Word("sequence", attention, _attention),
    "cross-attention": Word(
        "sequence",
        cross_attention,
        lambda pick, s: (pick((1, 2, 3)), pick((2, 3)), pick(("width", "heads", "both"))),
        context=True,
    ),
    "per-head": Word(
        "sequence",
        per_head,
        lambda pick, s: (pick(WIDTHS), pick((1, 2, 3)), pick((2, 3)), pick(("einsum", "matmul"))),
    ),
    "latents": Word("sequence", latents, lambda pick, s: (pick(WIDTHS), pick((2, 3)))),
}
