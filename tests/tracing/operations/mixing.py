"""Operations that mix channels, so that none of them can go, and what the tracer says of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SOFTMAX = "a softmax or running sum goes over it"
NORMALISED = "it is normalised over"
REDUCED = "it is summed, averaged or compared over"
SORTED = "it is sorted along"
INDEXED = "it is looked up by index"
PARTS = "it is cut into parts of different sizes"
FIXED = "it meets a tensor of a fixed size"
WINDOWS = "windows slide along it"

ROWS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax": (lambda x: x.softmax(1), SOFTMAX),
    "log_softmax": (lambda x: x.log_softmax(1), SOFTMAX),
    "softmin": (lambda x: functional.softmin(x, 1), SOFTMAX),
    "cumsum": (lambda x: x.cumsum(1), SOFTMAX),
    "cummax": (lambda x: x.cummax(1).values, SOFTMAX),
    "layer norm": (lambda x: functional.layer_norm(x, (8,)), NORMALISED),
    "RMS norm": (lambda x: functional.rms_norm(x, (8,)), REDUCED),
    "a norm": (lambda x: functional.normalize(x), "its norm is taken over"),
    "a renorm": (lambda x: torch.renorm(x, 2, 0, 1.0), "its norm is taken over"),
    "a sum": (lambda x: x.sum(1, keepdim=True), REDUCED),
    "a maximum": (lambda x: x.max(1, keepdim=True).values, REDUCED),
    "var_mean": (lambda x: torch.var_mean(x, 1, keepdim=True)[0], REDUCED),
    "a median": (lambda x: x.median(1, keepdim=True).values, REDUCED),
    "sort": (lambda x: x.sort(1).values, SORTED),
    "topk": (lambda x: x.topk(3, 1).values, SORTED),
    "the strongest channels": (lambda x: x[:, x.mean(0).topk(3).indices], SORTED),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, "a Fourier transform goes over it"),
    "roll": (lambda x: x.roll(1, 1), "it is rolled along"),
    "rot90": (lambda x: x.rot90(), "it is turned along"),
    "triangle": (lambda x: x.tril(), "a triangle is cut out of it"),
    "index": (lambda x: x[:, [2, 0, 1]], INDEXED),
    "gather": (lambda x: x.gather(1, x.argsort(0)[:, :2]), INDEXED),
    "scatter": (lambda x: x.scatter(1, torch.tensor([[2]]).expand(6, 1), 1.0), INDEXED),
    "a channel is assigned": (lambda x: x.index_fill(1, torch.tensor([2]), 1.0), INDEXED),
    "windows of channels": (lambda x: x.unfold(1, 2, 1).sum(-1), WINDOWS),
    "padding": (lambda x: functional.pad(x, (1, 1)), "it is padded along"),
    "LocalResponseNorm": (lambda x: functional.local_response_norm(x[..., None], 3)[..., 0], "it is padded along"),
    "a pooling without a batch": (
        lambda x: functional.avg_pool2d(x[None], (1, 2))[0],
        "it runs along the dimensions that are pooled or resized",
    ),
    "a pooling": (lambda x: functional.avg_pool1d(x, 2), "it runs along the dimensions that are pooled or resized"),
    "unequal parts": (lambda x: torch.cat([x[:, :3].sin(), x[:, 3:]], 1), PARTS),
    "numbers of each": (lambda x: x * torch.arange(8, dtype=x.dtype), FIXED),
    "a mask of each": (lambda x: x.masked_fill(torch.arange(8) > 5, 0.0), FIXED),
    "a mean error": (lambda x: x * functional.mse_loss(x, x.sin()), "a loss is averaged or summed over it"),
    "random places": (
        lambda x: functional.fractional_max_pool2d(x[:, :, None, None].expand(-1, -1, 4, 4), 2, 2).flatten(1),
        "random numbers are drawn for it",
    ),
    "noise": (lambda x: x + torch.randn_like(x), "random numbers are drawn for it"),
    "an inverse": (lambda x: torch.linalg.pinv(x).mT, "this operation is not understood"),
    "strides": (lambda x: x.as_strided((6, 4), (8, 2)), "this operation is not understood"),
}
"""By name: a function of rows of 8 channels, and the reason that it freezes them for."""
