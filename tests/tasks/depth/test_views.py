"""Views of frames that are trained on, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.data.batches import IMAGENET
from tasks.depth.views import Augmentation, View, depths_seen, drawn, images_seen, middle, shown

CPU = torch.device("cpu")


def view(**changed: Any) -> View:
    return replace(middle(1, CPU), **{name: torch.tensor([value]) for name, value in changed.items()})


def ramp() -> tuple[Tensor, Tensor]:
    """Frames of 40 x 60 of which the depth is the column's number plus 1, and the colour (row, column, 100)."""
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 100)]).byte()[None], (columns + 1.0)[None]


def seen(**changed: Any) -> tuple[Tensor, Tensor]:
    """Colours (3, 20, 30) on the scale of the frame's, and depths (20, 30), of a view of the ramp."""
    images, depths = ramp()
    at = view(**changed)
    return 255 * shown(images_seen(images, at, (20, 30)))[0], depths_seen(depths, at, (20, 30), (20, 30))[0]


def test_the_middle_is_the_middle() -> None:
    colours, depths = seen()
    rows, columns = torch.arange(10, 30.0), torch.arange(15, 45.0)
    torch.testing.assert_close(colours[0], rows[:, None].expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[1], columns.expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths, (columns + 1).expand(20, 30))


def test_the_network_s_inputs_are_normalised_as_imagenet_s() -> None:
    images = torch.full((1, 3, 20, 30), 51, dtype=torch.uint8)
    inputs = images_seen(images, middle(1, CPU), (20, 30))[0, :, 3, 4]
    torch.testing.assert_close(inputs, (0.2 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))


def test_what_is_enlarged_is_nearer() -> None:
    colours, depths = seen(scale=2.0)
    # at twice the size, the window of 30 columns shows 15 of the frame's, from 22.5 to 37.5, each for two of its own
    columns = 22.5 + (torch.arange(30) + 0.5) / 2 - 0.5
    torch.testing.assert_close(colours[1], columns.expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths * 2, (columns.round() + 1).expand(20, 30), atol=0.51, rtol=0)
    assert float(depths.max()) < 20  # half of what is there


def test_a_turn_moves_both_alike() -> None:
    colours, depths = seen(angle=math.pi / 2, scale=1.5)
    # right of the middle, in the window, is what lies below the middle of the frame, and below it what lies to the left
    right = (torch.arange(30) + 0.5 - 15) / 1.5
    down = (torch.arange(20) + 0.5 - 10) / 1.5
    torch.testing.assert_close(colours[0], (20 + right - 0.5).expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[1], (30 - down - 0.5)[:, None].expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths * 1.5 - 1, colours[1], atol=0.51, rtol=0)


def test_a_mirrored_view_is_that_flipped() -> None:
    for name, plain, mirrored in zip(("colours", "depths"), seen(), seen(mirror=-1.0), strict=True):
        torch.testing.assert_close(plain.flip(-1), mirrored, atol=1e-3, rtol=0, msg=name)


def test_a_shift_goes_as_far_as_the_edge() -> None:
    colours, depths = seen(shift=[1.0, -1.0])
    torch.testing.assert_close(colours[:2, 0, -1], torch.tensor([0.0, 59.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths[0], torch.arange(31.0, 61.0))


def test_beyond_the_edge_there_is_no_reading() -> None:
    images, depths = ramp()
    at = view(angle=math.pi / 4)
    wide, deep = shown(images_seen(images, at, (40, 60)))[0], depths_seen(depths, at, (40, 60), (40, 60))[0]
    assert deep[0, 0] == 0
    assert wide[2, 0, 0] < 0.01
    assert deep[20, 30] > 0


def test_colours_are_brightened_each_by_its_own() -> None:
    plain, bright = seen()[0], seen(colour=[1.2, 0.8, 1.1])[0]
    torch.testing.assert_close(bright, plain * torch.tensor([1.2, 0.8, 1.1])[:, None, None], atol=1e-3, rtol=0)


def test_views_are_drawn_within_their_bounds() -> None:
    random = torch.Generator().manual_seed(0)
    at = drawn(4000, Augmentation(), random, CPU)
    for values, low, high in (
        (at.scale, 1.0, 1.5), (at.angle, -math.radians(5), math.radians(5)), (at.shift, -1.0, 1.0),
        (at.colour, 0.8, 1.2),
    ):  # fmt: skip
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(values.max()) <= high
        assert float(values.std()) == pytest.approx((high - low) / math.sqrt(12), rel=0.03)
    assert float((at.mirror == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (drawn(99, Augmentation(flip=False), random, CPU).mirror == 1).all()
