"""Operations along space, time or rows: poolings, paddings, norms, reductions, sorting, transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tracing.operations import Functions, Modules

_BY_SIZE: dict[str, list[object]] = {
    "AvgPool": [2], "MaxPool": [2], "LPPool": [2, 2], "AdaptiveAvgPool": [3], "AdaptiveMaxPool": [3],
    "ConstantPad": [1, 0.5], "ZeroPad": [1], "ReflectionPad": [1], "ReplicationPad": [1], "CircularPad": [1],
    "BatchNorm": [8], "InstanceNorm": [8],
}  # fmt: skip
"""Names without the number of dimensions, and what they are called with."""
MODULES: dict[str, Modules] = {
    f"conv{n}d": {
        f"{name}{n}d": lambda name=name, n=n, args=args: getattr(nn, f"{name}{n}d")(*args)  # type: ignore[misc]
        for name, args in _BY_SIZE.items()
    }
    for n in (1, 2, 3)
}
MODULES["conv2d"] |= {
    "Dropout2d": nn.Dropout2d,
    "InstanceNorm2d with scales": lambda: nn.InstanceNorm2d(8, affine=True),
    "InstanceNorm2d with statistics": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "LayerNorm over space": lambda: nn.LayerNorm((6, 6)),
    "RMSNorm over space": lambda: nn.RMSNorm((6, 6)),
    "GroupNorm": lambda: nn.GroupNorm(8, 8),
    "a depthwise convolution": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "a transposed depthwise convolution": lambda: nn.ConvTranspose2d(8, 8, 2, 2, groups=8),
    "circular padding of a convolution": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=8),
    "reflected padding of a convolution": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8),
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "UpsamplingBilinear2d": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "Flatten": nn.Flatten,
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "GLU": lambda: nn.GLU(1),
    "Softmax over space": lambda: nn.Softmax(-1),
    "LogSoftmax over space": lambda: nn.LogSoftmax(-1),
    "Softmin over space": lambda: nn.Softmin(-1),
}
MODULES["conv3d"] |= {"Dropout3d": nn.Dropout3d, "Upsample3d": lambda: nn.Upsample(scale_factor=2, mode="trilinear")}


def _grid(x: Tensor) -> Tensor:
    return functional.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(2, 2, 3), [2, 8, 6, 6], align_corners=False)


def _named(names: str, call: Callable[[Callable[..., Any], Tensor], Any]) -> Functions:
    """Functions of torch by name, called with some arguments."""

    def make(name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: call(getattr(torch, name), x)

    return {f"{name} over space": make(name) for name in names.split()}


CONV2D: Functions = {
    **_named(
        "amax amin cumprod cumsum logcumsumexp logsumexp mean nanmean nansum prod std sum var", lambda f, x: f(x, 2)
    ),
    **_named("nanquantile quantile", lambda f, x: f(x, 0.3, 2)),
    **_named("cummax cummin max median min mode nanmedian sort", lambda f, x: f(x, 3)[0]),
    **_named("all any", lambda f, x: f(x > 0, 2).to(x.dtype)),
    **_named("argmax argmin argsort", lambda f, x: f(x, 3).to(x.dtype)),
    "mean over all of space": lambda x: x.mean((2, 3)),
    "mean over the batch": lambda x: x.mean(0, keepdim=True),
    "var_mean over space": lambda x: torch.cat(torch.var_mean(x, (2, 3), keepdim=True), 2),
    "std_mean over space": lambda x: torch.cat(torch.std_mean(x, 2), 2),
    "aminmax over space": lambda x: torch.sub(*torch.aminmax(x, dim=2)),
    "count_nonzero over space": lambda x: torch.count_nonzero(x > 0, 2).to(x.dtype),
    "norm over space": lambda x: torch.linalg.vector_norm(x, 3, (2, 3), keepdim=True),
    "norm": lambda x: x.norm(dim=2),
    "normalize over space": lambda x: functional.normalize(x, dim=2),
    "sort downwards": lambda x: x.sort(stable=True, dim=2, descending=True).values,
    "sorted places": lambda x: x.gather(3, x.argsort(3)),
    "topk over space": lambda x: x.topk(3, 2).values,
    "kthvalue over space": lambda x: x.kthvalue(3, 2).values,
    "median of each map": lambda x: x.flatten(2).median(-1).values,
    "diff over space": lambda x: x.diff(dim=2),
    "trapezoid": lambda x: torch.trapezoid(x, dim=2),
    "gradient over space": lambda x: torch.gradient(x, dim=2)[0],
    "renorm of each channel": lambda x: torch.renorm(x, 2, 1, 1.0),
    "fft over space": lambda x: torch.fft.fft(x, dim=2).abs(),
    "fft2": lambda x: torch.fft.fft2(x).real,
    "rfft and irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=3), 6, dim=3),
    "rfft2 and irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), (6, 6)),
    "a filter of frequencies": lambda x: (
        torch.fft.ifft2(torch.fft.fft2(x) * torch.fft.fftfreq(6, device=x.device)).real
    ),
    "fftshift": lambda x: torch.fft.fftshift(x, (2, 3)),
    "hfft": lambda x: torch.fft.hfft(x.to(torch.complex128), dim=3),
    "nearest": lambda x: functional.interpolate(x, size=9),
    "nearest-exact": lambda x: functional.interpolate(x, size=9, mode="nearest-exact"),
    "bilinear": lambda x: functional.interpolate(x, size=(9, 7), mode="bilinear", align_corners=True),
    "bicubic": lambda x: functional.interpolate(x, size=9, mode="bicubic"),
    "area": lambda x: functional.interpolate(x, size=4, mode="area"),
    "antialiased": lambda x: functional.interpolate(x, size=4, mode="bilinear", antialias=True),
    "grid_sample": lambda x: functional.grid_sample(x, x.new_zeros(2, 3, 4, 2), align_corners=False),
    "affine_grid": lambda x: functional.grid_sample(
        x,
        functional.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(2, 2, 3), [2, 8, 6, 6], False),
        align_corners=False,
    ),
    "pad": lambda x: functional.pad(x, (1, 0, 2, 1), value=1.0),
    "pad with a negative width": lambda x: functional.pad(x, (-1, 0)),
    "circular pad": lambda x: functional.pad(x, (1, 2, 0, 1), mode="circular"),
    "reflected pad": lambda x: functional.pad(x, (1, 2, 0, 1), mode="reflect"),
    "max-pooling and unpooling": lambda x: functional.max_unpool2d(
        *functional.max_pool2d(x, 2, return_indices=True), 2
    ),
    "unfold and fold": lambda x: functional.fold(functional.unfold(x, 3, padding=1), 6, 3, padding=1),
    "unfold": lambda x: functional.unfold(x, 2),
    "unfold of patches": lambda x: x.unfold(2, 3, 2).unfold(3, 3, 2).sum((-1, -2)),
    "strided max-pooling": lambda x: functional.max_pool2d(x, 3, 1, 1, ceil_mode=True),
    "softmax over all of space": lambda x: x.flatten(2).softmax(2),
    "matmul over space": lambda x: x @ torch.ones(6, 4, dtype=x.dtype),
    "einsum over space": lambda x: torch.einsum("nchw,wv->nchv", x, torch.ones(6, 4, dtype=x.dtype)),
    "a pooling without a batch": lambda x: functional.max_pool2d(x[0], 2)[None],
    "pixel_shuffle and mean": lambda x: functional.pixel_shuffle(x, 2).mean((2, 3)),
    "moving average": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "squeeze and excitation": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
}
CONV1D: Functions = {
    "max-unpooling 1d": lambda x: functional.max_unpool1d(*functional.max_pool1d(x, 2, return_indices=True), 2),
    "nearest 1d": lambda x: functional.interpolate(x, scale_factor=2),
    "linear 1d": lambda x: functional.interpolate(x, scale_factor=2, mode="linear"),
    "adaptive max-pooling with places": lambda x: functional.adaptive_max_pool1d(x, 3, return_indices=True)[0],
}
CONV3D: Functions = {
    "max-unpooling 3d": lambda x: functional.max_unpool3d(*functional.max_pool3d(x, 2, return_indices=True), 2),
    "fftn": lambda x: torch.fft.fftn(x, dim=(2, 3, 4)).abs(),
    "nearest 3d": lambda x: functional.interpolate(x, scale_factor=2),
}
