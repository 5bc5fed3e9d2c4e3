"""Channels last: whether a network can be trained so, whether it lies so, and how it is put so."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def trains_in_channels_last(model: nn.Module) -> bool:
    """Return whether torch can train the model with its channels last.

    On a CPU with AVX2, torch 2.13 writes beyond a buffer in the backward pass of a strided convolution of 1 x 1 with
    fewer than 8 input channels that lie last.
    """
    return not any(
        isinstance(m, nn.Conv2d)
        and set(m.kernel_size) == {1}
        and set(m.stride) != {1}
        and m.in_channels < 8
        and m.weight.device.type == "cpu"
        for m in model.modules()
    )


def is_channels_last(model: nn.Module) -> bool:
    """Return whether the model has weights of four dimensions whose channels lie last, and none where they do not."""
    weights = [p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return bool(weights) and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def set_memory_format(
    models: Iterable[nn.Module], optimizers: Iterable[Optimizer], memory_format: torch.memory_format
) -> None:
    """Put models and their optimizers' states in a memory format. Parameters stay the same objects."""
    for model in models:
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)  # fused optimizers need it
