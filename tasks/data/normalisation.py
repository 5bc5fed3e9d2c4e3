"""Means and deviations of images' channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGENET: tuple[Sequence[float], Sequence[float]] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""ImageNet's mean and deviation, on the scale of 0 to 1: for data that are too large to be measured first."""


def statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (N, 3, H, W) uint8, as (1, 3, 1, 1), on the scale of 0 to 255."""
    counts = torch.stack([torch.bincount(pixels[:, c].flatten().int(), minlength=256) for c in range(3)]).double()
    values, total = torch.arange(256, device=counts.device).double(), counts.sum(1)
    mean = (counts * values).sum(1) / total
    deviation = ((counts * values.square()).sum(1) / total - mean.square()).clamp(min=1e-6).sqrt()
    return mean.float()[None, :, None, None], deviation.float()[None, :, None, None]
