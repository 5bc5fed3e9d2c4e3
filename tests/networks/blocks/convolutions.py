"""Convolutions of images and signals of one to three dimensions."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.networks.blocks import BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, divisors, raw

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def conv(s: State, width: int, kernel: int, stride: int, dilation: int, groups: int, how: str) -> Made:
    padding = dilation * (kernel // 2)
    mode = how if how in ("reflect", "circular", "replicate") else "zeros"
    layer = CONV[len(s.sizes)](
        s.width, width, kernel, stride, padding, dilation, groups, bias=how != "bare", padding_mode=mode
    )
    if how == "weight-norm":
        layer = parametrizations.weight_norm(layer)
    sizes = tuple((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in s.sizes)
    return layer, State("image", width, sizes)


def _conv(pick: Pick, s: State) -> Options:
    kernel, stride = pick((1, 3, 3)), pick((1, 1, 2))
    dilation = pick((1, 1, 2)) if kernel > 1 and min(s.sizes) > 2 else 1
    kind = pick(("plain", "plain", "grouped", "depthwise"))
    groups = {"plain": 1, "depthwise": s.width}.get(kind) or pick(divisors(s.width, 1))
    width = pick(WIDTHS) if groups == 1 else groups * pick([m for m in (1, 2, 3) if groups * m <= 24] or [1])
    padded = ["reflect", "circular", "replicate"] * (min(s.sizes) > 2 and (len(s.sizes) < 3 or kernel == 1))
    return width, kernel, stride, dilation, groups, pick(["bias", "bias", "bare", "bare", "weight-norm", *padded])


def transposed(s: State, width: int, kernel: int, groups: int, bias: bool, normed: bool) -> Made:
    layer = TRANSPOSED[len(s.sizes)](s.width, width, kernel, 2, groups=groups, bias=bias)
    if normed:
        layer = parametrizations.weight_norm(layer)
    return layer, State("image", width, tuple((n - 1) * 2 + kernel for n in s.sizes))


def _transposed(pick: Pick, s: State) -> Options | None:
    if prod(s.sizes) > 100:
        return None
    groups = pick((1, 1, *divisors(s.width)))
    return (pick(WIDTHS) if groups == 1 else groups * pick((1, 2))), pick((2, 3)), groups, pick(BOTH), pick(BOTH)


def unfold(s: State, width: int) -> Made:
    """Patches by im2col, and a matrix."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.map(functional.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])

    return Block(forward, map=nn.Linear(s.width * 9, width)), replace(s, width=width)


def shared_kernel(s: State, width: int) -> Made:
    """A convolution down and its transpose up with one weight."""
    nd = len(s.sizes)
    down, up = getattr(functional, f"conv{nd}d"), getattr(functional, f"conv_transpose{nd}d")

    def forward(self: Any, x: Tensor) -> Tensor:
        return up(down(x, self.weight, padding=1).relu(), self.weight, padding=1)

    return Block(forward, weight=raw(width, s.width, *(3 for _ in s.sizes))), s


def functional_conv(s: State, groups: int, how: str) -> Made:
    """A convolution with a raw kernel and a written number of groups, or as many groups as there are channels."""
    apply = getattr(functional, f"conv{len(s.sizes)}d")

    def forward(self: Any, x: Tensor) -> Tensor:
        count = {"written": groups, "own": x.shape[1]}[how]
        return apply(x, self.weight, self.bias, groups=count)

    per_group = 1 if how == "own" else s.width // groups
    return Block(forward, weight=raw(s.width, per_group, *(1 for _ in s.sizes)), bias=raw(s.width)), s


def mixed_kernels(s: State, width: int, count: int) -> Made:
    """A convolution whose kernel is a mixture for each input, all inputs in one grouped convolution."""

    def forward(self: Any, x: Tensor) -> Tensor:
        weights = self.choose(x.flatten(2).mean(2)).softmax(1)
        kernels = torch.einsum("nk,koci->noci", weights, self.kernels).flatten(0, 1)
        y = functional.conv1d(x.flatten(2).reshape(1, -1, x.flatten(2).shape[2]), kernels, groups=len(x))
        return y.view(len(x), -1, *x.shape[2:])

    kernels, choose = raw(count, width, s.width, 1), nn.Linear(s.width, count)
    return Block(forward, kernels=kernels, choose=choose), replace(s, width=width)


WORDS: dict[str, Word] = {
    "conv": Word("image", conv, _conv),
    "conv-transposed": Word("image", transposed, _transposed),
    "unfold": Word("image", unfold, lambda pick, s: (pick(WIDTHS),) if len(s.sizes) == 2 else None),
    "shared-kernel": Word("image", shared_kernel, lambda pick, s: (pick(WIDTHS),)),
    "mixed-kernels": Word("image", mixed_kernels, lambda pick, s: (pick(WIDTHS), pick((2, 3)))),
    "functional-conv": Word(
        "image", functional_conv, lambda pick, s: (pick(divisors(s.width, 1)), pick(("written", "own")))
    ),
}
