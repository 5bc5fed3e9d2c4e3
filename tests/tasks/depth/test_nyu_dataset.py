"""NYU Depth v2 in both layouts, and what is said of bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from tasks.depth.nyu_dataset import LABELED, SPLITS, Pairs, held_out, read, spread
from tests.tasks.tiny_data import rooms, scenes
from tests.tasks.tiny_tasks import nyu_task

pytestmark = pytest.mark.usefixtures("without_type_checks")
REAL = Path(__file__).parents[3] / "data" / "rgbd"
RGB, METRES = np.zeros((3, 8, 9), np.uint8), np.ones((8, 9), np.float32)


def labeled(folder: Path, count: int = 10, **changed: Any) -> tuple[np.ndarray, np.ndarray]:
    """The official file's layout, as MATLAB writes it: width before height; and the split, MATLAB v5, from 1 on."""
    folder.mkdir(parents=True, exist_ok=True)
    images, depths = rooms(count)
    with h5py.File(folder / LABELED, "w", userblock_size=512) as file:
        file["images"], file["depths"] = images.transpose(0, 1, 3, 2), depths.transpose(0, 2, 1)
    with (folder / LABELED).open("r+b") as raw:  # what MATLAB has in front of an HDF5 file
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    rows = {"trainNdxs": np.array([[3], [1], [10], [5]], np.uint16), "testNdxs": np.array([[2], [9], [4]], np.uint16)}
    scipy.io.savemat(folder / SPLITS, {**rows, **changed})
    return images, depths


def test_the_folder_layout_is_read_in_order(tmp_path: Path) -> None:
    scenes(tmp_path)
    train, val, name = read(str(tmp_path))
    assert (len(train), len(val), val.name, name) == (16, 6, "val", tmp_path.name)
    assert train.keys[:5] == ("attic/00000.h5", "attic/00001.h5", "attic/00002.h5", "attic/00003.h5", "den_1/00000.h5")
    images, depths = rooms(12)
    rgb, depth = train.read(4)
    assert (rgb.dtype, depth.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(rgb, images[0])
    np.testing.assert_array_equal(depth, depths[0])


def test_the_data_set_is_named_after_what_there_is(tmp_path: Path) -> None:
    scenes(tmp_path / "several")
    assert read(str(tmp_path / "several"))[2] == "several"
    scenes(tmp_path / "handed")
    (tmp_path / "handed/val/hall").rename(tmp_path / "handed/val/official")
    assert read(str(tmp_path / "handed"))[2] == "nyu-depth-v2"
    scenes(tmp_path / "one")
    for split, scene in (("train", "den_1"), ("val", "hall")):
        (tmp_path / "one" / split / scene).rename(tmp_path / "one" / split / "kitchen")
    (tmp_path / "one/train/attic").rename(tmp_path / "attic")
    assert read(str(tmp_path / "one"))[2] == "one-kitchen"
    labeled(tmp_path / "official")
    assert read(str(tmp_path / "official"))[2] == "nyu-depth-v2"
    assert nyu_task(tmp_path / "several", dataset="mine").dataset == "mine"


def test_the_official_file_is_turned_and_split(tmp_path: Path) -> None:
    images, depths = labeled(tmp_path)
    train, test, _ = read(str(tmp_path))
    assert (train.keys, test.keys, test.name) == ((0, 2, 4, 9), (1, 3, 8), "test")
    rgb, depth = train.read(3)
    np.testing.assert_array_equal(rgb, images[9])
    np.testing.assert_array_equal(depth, depths[9])
    assert rgb.shape == (3, 48, 64)


def test_both_layouts_give_the_same_batches(tmp_path: Path) -> None:
    images, depths = labeled(tmp_path / "mat")
    for split, rows in (("train", (0, 2, 4, 9)), ("val", (1, 3, 8))):
        (tmp_path / "h5" / split / "all").mkdir(parents=True)
        for row in rows:
            with h5py.File(tmp_path / "h5" / split / "all" / f"{row:05d}.h5", "w") as file:
                file["rgb"], file["depth"] = images[row], depths[row]
    one, other = nyu_task(tmp_path / "mat", validation=0.0), nyu_task(tmp_path / "h5", validation=0.0)
    model = one.model()
    for a, b in zip(one.batches(model, 1), other.batches(model, 1), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert one.evaluate(model) == other.evaluate(model)


def test_no_reading_is_zero(tmp_path: Path) -> None:
    scenes(tmp_path)
    with h5py.File(tmp_path / "val/hall/00000.h5", "r+") as file:
        depth = file["depth"][()]
        depth[0, :4] = [np.nan, np.inf, -1.0, 2.0]
        file["depth"][()] = depth
    _, val, _ = read(str(tmp_path))
    assert val.read(0)[1][0, :4].tolist() == [0.0, 0.0, 0.0, 2.0]


def test_held_out_are_the_last_of_each_scene() -> None:
    pairs = Pairs(Path(), tuple(range(30)), ("a",) * 20 + ("b",) * 10, "train")
    train, validation = held_out(pairs, 0.2)
    assert validation.keys == (16, 17, 18, 19, 28, 29)
    assert train.keys == (*range(16), *range(20, 28))
    assert held_out(pairs, 0.0)[0] == pairs
    assert spread(pairs, 6).keys == (0, 5, 10, 15, 20, 25)
    assert spread(pairs, 0) == spread(pairs, 99) == pairs


def rewrite(path: Path, **arrays: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def shortened(path: Path) -> None:
    """A file whose header is whole and whose compressed depths are not what was written."""
    with h5py.File(path) as file:
        chunk = file["depth"].id.get_chunk_info(3)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\x00" * chunk.size
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"val/hall/00003.h5 cannot be read \(.*truncated.*\): fetch it anew"),
        (shortened, r"val/hall/00003.h5 cannot be read \(.*\): fetch it anew"),
        (lambda p: p.write_bytes(b""), r"val/hall/00003.h5 cannot be read \(.*\): fetch it anew"),
        (
            lambda p: rewrite(p, rgb=RGB),
            r"00003.h5 cannot be read \(it has no data set depth, there are rgb\): fetch it anew",
        ),
        (lambda p: rewrite(p), r"00003.h5 cannot be read \(it has no data set rgb, there are none\)"),
        (
            lambda p: rewrite(p, rgb=RGB.transpose(1, 2, 0), depth=METRES),
            r"has rgb \(8, 9, 3\) uint8 and depth \(8, 9\) float32, and rgb \(3, H, W\) uint8 and depth \(H, W\) float",
        ),
        (lambda p: rewrite(p, rgb=RGB, depth=METRES.T), r"has rgb \(3, 8, 9\) uint8 and depth \(9, 8\) float32"),
        (lambda p: rewrite(p, rgb=RGB / 1.0, depth=METRES), r"has rgb \(3, 8, 9\) float64"),
        (lambda p: rewrite(p, rgb=RGB, depth=METRES[None]), r"depth \(1, 8, 9\) float32"),
        (
            lambda p: [f.unlink() for f in p.parent.iterdir()],
            r"val/hall has no pairs: put NNNNN.h5 there, or remove the folder",
        ),
        (lambda p: [f.unlink() for f in p.parent.iterdir()] and p.parent.rmdir(), r"val has no scenes: put there"),
        (lambda p: p.parents[1].rename(p.parents[2] / "test"), rf"has no {LABELED} and no val: put there {LABELED}"),
    ],
)
def test_bad_folders_are_a_sentence(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    scenes(tmp_path)
    damage(tmp_path / "val/hall/00003.h5")
    with pytest.raises(ValueError, match=message):
        nyu_task(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: truncate(p / LABELED), rf"{LABELED} cannot be read \(.*\): fetch it anew"),
        (
            lambda p: scipy.io.savemat(p / LABELED, {"images": RGB}),
            rf"{LABELED} cannot be read \(it is a MATLAB v5 file, and not v7.3, which is HDF5\): fetch it anew",
        ),
        (
            lambda p: rewrite(p / LABELED, images=RGB[None]),
            rf"{LABELED} cannot be read \(it has no data set depths, there are images\)",
        ),
        (
            lambda p: rewrite(p / LABELED, images=RGB[None], depths=METRES.T[None]),
            r"has images \(1, 3, 8, 9\) uint8 and depths \(1, 9, 8\) float32, and images \(N, 3, W, H\) uint8",
        ),
        (lambda p: (p / SPLITS).unlink(), rf"has no {SPLITS}, which says what is trained on"),
        (lambda p: rewrite(p / SPLITS, trainNdxs=[1]), rf"{SPLITS} cannot be read \(it is no MATLAB v5 file\)"),
        (lambda p: (p / SPLITS).write_bytes(b"what"), rf"{SPLITS} cannot be read \(it is no MATLAB v5 file\)"),
        (
            lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1]}),
            r"cannot be read \(it has no whole numbers testNdxs\): fetch",
        ),
        (
            lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1, 2], "testNdxs": [11]}),
            r"does not part the 10 pairs .* \(it has 2 to train and 1 to test, from 1 to 11\): fetch both anew",
        ),
        (lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1, 2], "testNdxs": [2]}), r"does not part the 10 pairs"),
        (lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [], "testNdxs": []}), r"0 to train and 0 to test"),
    ],
)
def test_a_bad_official_file_is_a_sentence(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    labeled(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        nyu_task(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the kitchen is not here")
def test_the_real_kitchen_is_read() -> None:
    train, val, name = read(str(REAL))
    assert (len(train), len(val), name) == (234, 100, "rgbd-kitchen")
    rgb, depth = train.read(0)
    assert (rgb.shape, depth.shape) == ((3, 480, 640), (480, 640))
    assert 0.3 < depth[depth > 0].mean() < 10
