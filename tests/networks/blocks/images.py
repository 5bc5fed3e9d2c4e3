"""Blocks of images and signals: norms, pooling, and ways to other kinds of states."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks.blocks import BOTH, WIDTHS, Block, Made, Options, Pick, State, Word, divisors, raw
from tests.networks.blocks.convolutions import CONV


def norm(s: State, how: str, option: Any) -> Made:
    nd = len(s.sizes)
    match how:
        case "batch":
            return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[nd](s.width, affine=option), s
        case "instance":
            kind = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[nd]
            return kind(s.width, affine=option[0], track_running_stats=option[1], eps=1e-2), s
        case "layer":  # over the channels, as ConvNeXt does
            layer = nn.LayerNorm(s.width)
            return Block(lambda self, x: self.norm(x.movedim(1, -1)).movedim(-1, 1), norm=layer), s
        case "all":
            return nn.LayerNorm([s.width, *s.sizes], elementwise_affine=option), s
        case "positions":
            return nn.LayerNorm(s.sizes, elementwise_affine=option), s
    return nn.GroupNorm(option, s.width, affine=how == "group"), s


def _norm(pick: Pick, s: State) -> Options | None:
    ways = ["batch", "batch", "layer", "group", "group-bare"] + ["instance", "all", "positions"] * (prod(s.sizes) > 1)
    how = pick(ways)
    if how == "instance":
        return how, (pick(BOTH), pick(BOTH))
    return how, (
        pick(divisors(s.width, 1)[: None if prod(s.sizes) > 1 else -1]) if how.startswith("group") else pick(BOTH)
    )


POOLS = ("avg", "max", "adaptive-avg", "adaptive-max", "nearest", "linear", "crop", "pad")


def pool(s: State, how: str) -> Made:
    """Other sizes."""
    nd = len(s.sizes)
    adaptive_avg, adaptive_max = (
        [getattr(functional, f"adaptive_{kind}_pool{d}d") for d in (1, 2, 3)] for kind in ("avg", "max")
    )
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[nd]

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "avg" | "max":
                return getattr(functional, f"{how}_pool{nd}d")(x, 2, ceil_mode=True)
            case "adaptive-avg":
                return adaptive_avg[nd - 1](x, 2)
            case "adaptive-max":
                return adaptive_max[nd - 1](x, 2)
            case "nearest":
                return functional.interpolate(x, scale_factor=2, mode="nearest")
            case "linear":
                return functional.interpolate(x, scale_factor=2, mode=linear, align_corners=False)
            case "crop":
                return x[..., 1:]
        return functional.pad(x, (1, 1))

    sizes = tuple(
        {"avg": (n + 1) // 2, "max": (n + 1) // 2, "nearest": 2 * n, "linear": 2 * n}.get(how, 2) for n in s.sizes
    )
    if how in ("crop", "pad"):
        sizes = (*s.sizes[:-1], s.sizes[-1] + (2 if how == "pad" else -1))
    return Block(forward), replace(s, sizes=sizes)


def _pool(pick: Pick, s: State) -> Options | None:
    down, up = ["avg", "max"] * (min(s.sizes) > 1), ["nearest", "linear"] * (prod(s.sizes) <= 64)
    return (pick(["adaptive-avg", "adaptive-max", "pad", *down, *up] + ["crop"] * (s.sizes[-1] > 1)),)


def pixels(s: State, how: str) -> Made:
    """Channels to positions, or positions to channels."""
    h, w = s.sizes

    def forward(self: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        match how:
            case "shuffle":
                return functional.pixel_shuffle(x, 2)
            case "unshuffle":
                return functional.pixel_unshuffle(x, 2)
            case "space-to-depth":  # position first, as in YOLO's
                y = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
                return y.reshape(n, -1, h // 2, w // 2)
            case "depth-to-space":
                y = x.view(n, 2, 2, -1, h, w).permute(0, 3, 4, 1, 5, 2)
                return y.reshape(n, -1, 2 * h, 2 * w)
        return torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]], 1)

    if how in ("shuffle", "depth-to-space"):
        return Block(forward), State("image", s.width // 4, (2 * h, 2 * w))
    return Block(forward), State("image", s.width * 4, (h // 2, w // 2))


def _pixels(pick: Pick, s: State) -> Options | None:
    if len(s.sizes) != 2:
        return None
    even = s.sizes[0] % 2 == 0 and s.sizes[1] % 2 == 0 and s.width <= 6
    ways = ["unshuffle", "space-to-depth", "focus"] * even
    ways += ["shuffle", "depth-to-space"] * (s.width % 4 == 0 and s.width > 4 and prod(s.sizes) <= 64)
    return (pick(ways),) if ways else None


def spatial_attention(s: State) -> Made:
    """A map of weights from the channels' mean and maximum."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()

    return Block(forward, conv=CONV[len(s.sizes)](2, 1, 3, padding=1)), s


def gram(s: State, width: int) -> Made:
    """Channels attend to channels."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (m(x).flatten(2) for m in (self.q, self.k, self.v))
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)), v) / 8
        return y.unflatten(2, x.shape[2:])

    one = CONV[len(s.sizes)]
    return Block(forward, **{n: one(s.width, width, 1) for n in "qkv"}), replace(s, width=width)


def response(s: State) -> Made:
    """Global response normalisation, as in ConvNeXt's second version."""
    dims = tuple(range(2, 2 + len(s.sizes)))

    def forward(self: Any, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
        return x + self.scale * (x * size / (size.mean(1, keepdim=True) + 1e-3)) + self.shift

    return Block(forward, scale=raw(*s.along), shift=raw(*s.along)), s


def warp(s: State, how: str) -> Made:
    """Positions are moved: by a grid, a flip, a roll, a transpose, or through Fourier space."""

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "grid":
                grid = functional.affine_grid(
                    torch.eye(2, 3).double().expand(len(x), 2, 3), list(x.shape), align_corners=False
                )
                return functional.grid_sample(x, grid, align_corners=False)
            case "flip":
                return x.flip(-1)
            case "roll":
                return x.roll((1, 1), (2, -1)) if x.ndim > 3 else x.roll(1, 2)
            case "fourier":
                return torch.fft.fft(x, dim=-1).real / 2
            case "windows":
                return x.unfold(-1, 2, 1).mean(-1)
            case "linear":
                return self.positions(x)
        return x.swapaxes(2, -1).contiguous()

    sizes = s.sizes
    if how == "swap" and len(sizes) > 1:
        sizes = (sizes[-1], *sizes[1:-1], sizes[0])
    if how == "windows":
        sizes = (*s.sizes[:-1], s.sizes[-1] - 1)
    return Block(forward, positions=nn.Linear(s.sizes[-1], s.sizes[-1])), replace(s, sizes=sizes)


def _warp(pick: Pick, s: State) -> Options:
    ways = ["flip", "roll", "fourier", "linear", "swap"] + ["grid"] * (len(s.sizes) == 2)
    return (pick(ways + ["windows"] * (s.sizes[-1] > 1)),)


def spectral(s: State, width: int) -> Made:
    """A complex matrix in Fourier space, as in a Fourier neural operator."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.fft.fft(x, dim=-1)
        y = torch.einsum("nc...,oc->no...", y, torch.complex(self.real, self.imaginary))
        return torch.fft.ifft(y, dim=-1).real

    return Block(forward, real=raw(width, s.width), imaginary=raw(width, s.width)), replace(s, width=width)


def to_vector(s: State, how: str) -> Made:
    dims = tuple(range(2, 2 + len(s.sizes)))

    def forward(self: Any, x: Tensor) -> Tensor:
        match how:
            case "flatten":
                return x.flatten(1)
            case "last":  # channels last, as TensorFlow flattens
                return x.movedim(1, -1).reshape(len(x), -1)
            case "mean":
                return x.mean(dims)
            case "max":
                return x.amax(dims)
            case "statistics":
                y = x.flatten(2)
                return torch.cat([y.mean(2), y.std(2, unbiased=False)], 1)
        return torch.cat([x.mean(dims), x.amax(dims)], 1)

    per_channel = prod(s.sizes) if how in ("flatten", "last") else 2 if how in ("both", "statistics") else 1
    return Block(forward), State("vector", s.width * per_channel)


def _to_vector(pick: Pick, s: State) -> Options:
    small = s.width * prod(s.sizes) <= 96
    return (pick(["mean", "max", "both", "statistics"] + ["flatten", "last"] * (2 * small)),)


def to_sequence(s: State, how: str) -> Made:
    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "positions":
            return x.flatten(2).transpose(1, 2)
        if how == "channels":  # every channel is a token
            return x.flatten(2)
        return x.movedim(1, -1).reshape(len(x), -1, x.shape[1])

    n = prod(s.sizes)
    return Block(forward), State("sequence", n, (s.width,)) if how == "channels" else State("sequence", s.width, (n,))


def _to_sequence(pick: Pick, s: State) -> Options | None:
    if prod(s.sizes) > 36:
        return None
    return (pick(["positions", "last"] + ["channels"] * (2 < prod(s.sizes) <= 16)),)


WORDS: dict[str, Word] = {
    "norm": Word("image", norm, _norm),
    "pool": Word("image", pool, _pool),
    "pixels": Word("image", pixels, _pixels),
    "spatial-attention": Word("image", spatial_attention),
    "response": Word("image", response),
    "warp": Word("image", warp, _warp),
    "spectral": Word("image", spectral, lambda pick, s: (pick(WIDTHS),)),
    "gram": Word("image", gram, lambda pick, s: (pick(WIDTHS),)),
    "to-vector": Word("image", to_vector, _to_vector),
    "to-sequence": Word("image", to_sequence, _to_sequence),
}
