"""Windows of frames and of their depths, and how they are augmented: Laina et al. 2016, section 4.1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor
from torch.nn import functional

from tasks.data.batches import IMAGENET
from tasks.runner.options import AtLeast0, Bounds, Share

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Options of what may happen to a frame in training, each with random numbers of its own (section 4.1)."""

    scale: Annotated[float, Bounds(minimum=1)] = 1.5
    """Most that frames are enlarged by in training, and their depths divided by, as what looks larger is nearer."""
    rotation: AtLeast0 = 5.0
    """Most degrees that frames are turned by in training."""
    colour: Share = 0.2
    """Most that each colour channel is brightened or darkened by in training, as a share."""
    flip: bool = True
    """Whether half of the frames are mirrored in training."""


@dataclass(frozen=True)
class View:
    """Which window of each of N frames is seen, and how."""

    scale: Tensor
    """(N,) how much larger than in the frame things are."""
    angle: Tensor
    """(N,) radians that the window is turned by against the frame, clockwise."""
    shift: Tensor
    """(N, 2) where its middle is to the right of the frame's and below it, -1 to 1 of the room that there is."""
    mirror: Tensor
    """(N,) 1, or -1 for a view that is mirrored, left for right."""
    colour: Tensor
    """(N, 3) that channels are multiplied by."""


def middle(count: int, device: torch.device) -> View:
    """The frames' middles as they are."""
    one, zero = torch.ones(count, device=device), torch.zeros(count, device=device)
    return View(one, zero, torch.zeros(count, 2, device=device), one, torch.ones(count, 3, device=device))


def drawn(count: int, augmentation: Augmentation, random: Generator, device: torch.device) -> View:
    """Views at random, uniformly within what the augmentation allows."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random, device=device)

    max_angle = math.radians(augmentation.rotation)
    mirrored = torch.rand(count, generator=random, device=device) < (0.5 if augmentation.flip else 0)
    return View(
        uniform(1, augmentation.scale), uniform(-max_angle, max_angle), uniform(-1, 1, 2), 1 - 2 * mirrored.float(),
        uniform(1 - augmentation.colour, 1 + augmentation.colour, 3),
    )  # fmt: skip


def _grid(view: View, frame: Size, window: Size, points: Size) -> Tensor:
    """Where ``points`` (h, w) that are spread over a window lie in the frame, (N, h, w, 2), -1 to 1 from edge to edge.

    At scale 1 the window is ``window`` pixels of the frame.
    """
    (high, wide), cos, sin = frame, view.angle.cos(), view.angle.sin()
    half_high, half_wide = window[0] / view.scale, window[1] / view.scale
    room = torch.stack([1 - half_wide / wide, 1 - half_high / high], -1) * view.shift
    theta = torch.stack([
        view.mirror * cos * half_wide / wide, -sin * half_high / wide, room[:, 0],
        view.mirror * sin * half_wide / high, cos * half_high / high, room[:, 1],
    ], -1).reshape(-1, 2, 3)  # fmt: skip
    return functional.affine_grid(theta, [len(theta), 1, *points], align_corners=False)


def images_seen(images: Tensor, view: View, size: Size) -> Tensor:
    """Frames (N, 3, H, W) uint8 as the network gets them, (N, 3, *size) float32, normalised; black beyond the edge."""
    grid = _grid(view, (images.shape[2], images.shape[3]), size, size)
    seen = functional.grid_sample(images.float(), grid, align_corners=False) * view.colour[:, :, None, None]
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None] for v in IMAGENET)
    return (seen.clamp(max=255) / 255 - mean) / deviation


def shown(inputs: Tensor) -> Tensor:
    """The network's inputs (N, 3, H, W) as colours again, 0 to 1."""
    mean, deviation = (torch.tensor(v, device=inputs.device)[:, None, None] for v in IMAGENET)
    return (inputs * deviation + mean).clamp(0, 1)


def depths_seen(depths: Tensor, view: View, size: Size, points: Size) -> Tensor:
    """The depths (N, H, W) of the same window, (N, *points), each the nearest reading's; 0 where there is none."""
    grid = _grid(view, (depths.shape[1], depths.shape[2]), size, points)
    seen = functional.grid_sample(depths[:, None], grid, mode="nearest", align_corners=False)
    return seen[:, 0] / view.scale[:, None, None]
