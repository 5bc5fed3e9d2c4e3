"""Frames that are held, and those that workers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.depth.frames import Frames, reduced
from tasks.depth.nyu_dataset import read
from tasks.runner.errors import RunError
from tests.tasks.tiny_data import scenes

CPU = torch.device("cpu")


def test_frames_that_do_not_fit_are_read_by_workers_and_are_the_same(tmp_path: Path) -> None:
    scenes(tmp_path, train=40)
    train, _, _ = read(str(tmp_path))
    cached, streamed = Frames(train, (34, 51), 1e9), Frames(train, (34, 51), 1000)
    assert cached.cached is not None
    assert streamed.cached is None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    parts = [list(frames.batches(order, 8, CPU)) for frames in (cached, streamed)]
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
