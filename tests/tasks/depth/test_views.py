"""Frames, the views of them that are trained on, and losses and errors of depths, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tasks.depth.frames import Frames, reduced
from tasks.depth.nyu_dataset import read
from tasks.depth.views import Augmentation, Errors, View, berhu, depths_seen, drawn, images_seen, l2, middle, shown
from tasks.runner.store import RunError
from tasks.vision.augmentation import IMAGENET
from tests.tasks.tiny_data import scenes

CPU = torch.device("cpu")


# --- frames


def test_frames_that_do_not_fit_are_read_by_workers_and_are_the_same(tmp_path: Path) -> None:
    scenes(tmp_path, train=40)
    train, _, _ = read(str(tmp_path))
    held, streamed = Frames(train, (34, 51), 1e9), Frames(train, (34, 51), 1000)
    assert held.held is not None
    assert streamed.held is None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    parts = [list(frames.batches(order, 8, CPU)) for frames in (held, streamed)]
    assert torch.equal(torch.get_rng_state(), state)
    for (images, depths), (others, deeps) in zip(*parts, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(depths, deeps)
    (tmp_path / "train/den_1/00009.h5").unlink()
    with pytest.raises(RunError, match=r"00009.h5 cannot be read"):
        list(streamed.batches(order, 8, CPU))


def test_reducing_averages_colours_and_picks_depths() -> None:
    random = np.random.default_rng(0)
    rgb, depth = random.integers(0, 255, (3, 48, 64), dtype=np.uint8), random.random((48, 64)).astype(np.float32)
    image, depths = reduced(rgb, depth, (12, 16))
    np.testing.assert_array_equal(depths.numpy(), depth[2::4, 2::4])
    peer = Image.fromarray(rgb.transpose(1, 2, 0)).resize((16, 12), Image.Resampling.BILINEAR)
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - np.asarray(peer).astype(int)).max() <= 1
    same, kept = reduced(rgb, depth, (48, 64))
    np.testing.assert_array_equal(same.numpy(), rgb)
    np.testing.assert_array_equal(kept.numpy(), depth)


# --- views


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


# --- losses and errors


TRUTH = torch.tensor([[[2.0, 0.0], [4.0, 1.0]]])
PREDICTED = torch.tensor([[[2.5, 9.0], [3.0, 0.0]]])


def test_losses_by_hand() -> None:
    assert float(l2(PREDICTED, TRUTH)) == pytest.approx((0.25 + 1 + 1) / 3)
    c = 1 / 5
    assert float(berhu(PREDICTED, TRUTH)) == pytest.approx(((0.25 + c * c) + 2 * (1 + c * c)) / (2 * c) / 3)
    close = TRUTH + torch.tensor([0.1, 1.0])
    # |x| = 0.1 and 0.1 are below a fifth of the largest, 1
    assert float(berhu(close, TRUTH)) == pytest.approx((0.1 + 0.1 + (1 + c * c) / (2 * c)) / 3)
    assert float(berhu(TRUTH, TRUTH)) == 0


def test_errors_by_hand_whatever_the_batches() -> None:
    whole = Errors()
    whole.add(PREDICTED, TRUTH)
    told = whole.means()
    assert told["rmse"] == pytest.approx(math.sqrt((0.25 + 1 + 1) / 3))
    assert told["rel"] == pytest.approx((0.25 + 0.25 + 1) / 3)
    # what is predicted at 0 counts as 1 cm there
    assert told["log10"] == pytest.approx((math.log10(1.25) + math.log10(4 / 3) + 2) / 3)
    assert (told["delta1"], told["delta2"], told["delta3"]) == pytest.approx((0, 2 / 3, 2 / 3))
    parts = Errors()
    parts.add(PREDICTED[:, :1], TRUTH[:, :1])  # one reading, and two in the other
    parts.add(PREDICTED[:, 1:], TRUTH[:, 1:])
    assert parts.means() == pytest.approx(told)
    with pytest.raises(RunError, match="no pixel that was evaluated has a reading"):
        Errors().means()
