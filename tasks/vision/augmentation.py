"""Augmenting a batch of images where it lies, each image with random numbers of its own and no Python for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor
from torch.nn import functional

from tasks.runner.options import AtLeast0, Bounds, CountOr0


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Options of what may happen to an image in training."""

    padding: CountOr0 = 4
    """Pixels of black around an image, of which a random window of its size is trained on."""
    flip: bool = True
    """Whether half of the images are mirrored in training."""
    rotation: AtLeast0 = 0.0
    """Most degrees that images are turned by in training."""
    smallest_crop: Annotated[float, Bounds(above=0, maximum=1)] = 1.0
    """Least share of an image's area that a random resized crop keeps in training; 1 is no such crop. Its aspect is 3:4
    to 4:3 (Szegedy et al. 2015)."""


def augment(images: Tensor, augmentation: Augmentation, random: Generator) -> Tensor:
    """(N, 3, H, W) of any type, and the same of what became of them."""
    if augmentation.padding or augmentation.flip:
        images = shift_and_flip(images, augmentation.padding, augmentation.flip, random)
    if augmentation.rotation or augmentation.smallest_crop < 1:
        images = turn_and_crop(images, augmentation.rotation, augmentation.smallest_crop, random)
    return images


def shift_and_flip(images: Tensor, padding: int, flip: bool, random: Generator) -> Tensor:
    """A window of each image, as large as it is, within ``padding`` black pixels around it; half of them mirrored."""
    (count, _, height, width), device = images.shape, images.device
    padded = functional.pad(images, [padding] * 4) if padding else images
    down, right = torch.randint(2 * padding + 1, (2, count, 1), generator=random, device=device)
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=random, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + right
    image = torch.arange(count, device=device)[:, None, None]
    # indexed as (N, H, W, 3), a pixel's channels are copied together
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turn_and_crop(images: Tensor, degrees: float, smallest: float, random: Generator) -> Tensor:
    """Each image turned by up to ``degrees``, with black corners, and of that a random window that fills the frame."""
    count, device = len(images), images.device

    def uniform(low: Tensor | float, high: Tensor | float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random, device=device)

    angle = math.radians(degrees) * uniform(-1, 1)
    area, aspect = uniform(smallest, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    if smallest == 1:
        aspect = torch.ones_like(aspect)
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = uniform(wide - 1, 1 - wide), uniform(high - 1, 1 - high)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([wide * cos, -high * sin, x, wide * sin, high * cos, y], -1).reshape(count, 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    outside = "zeros" if degrees else "border"  # a window that touches the edge is interpolated beyond it
    return functional.grid_sample(images.float(), grid, padding_mode=outside, align_corners=False)


def prepared(images: Tensor, mean: Tensor, deviation: Tensor, size: int) -> Tensor:
    """uint8 (or 0 to 255) images as the network gets them: (N, 3, ``size``, ``size``) float32, normalised."""
    images = (images.float() - mean) / deviation
    if images.shape[-2:] != (size, size):
        images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return images
