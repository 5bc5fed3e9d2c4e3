"""Colour images and their depths as NYU Depth v2 is handed round: the official file, or a folder of HDF5 files a scene.

Silberman, Hoiem, Kohli, Fergus: "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. Everything is
lazy: a pair is read when it is asked for, and a file is open only while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tasks.depth.matlab_file import read_numbers
from tasks.runner.files import reading, require_size

LABELED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
PAIR: dict[str, tuple[Any, ...]] = {"rgb": (3, "H", "W", "uint8"), "depth": ("H", "W", "float32")}
NAME = "nyu-depth-v2"
LETTERS = ("N", "H", "W")
HDF5_RATIO = 1100
"""How many times its own size an HDF5 file may take: its compression reaches a thousand, of zeros."""
UNREAD = "has a reading: depths are all 0 or not finite, where metres are needed"
EXPECTED = f"{LABELED} and {SPLITS}, or train/SCENE/NNNNN.h5 and val/SCENE/NNNNN.h5"


@dataclass(frozen=True)
class Pairs:
    """A split: colour images and the depths of their pixels."""

    path: Path
    """The official file, or the split's folder."""
    keys: tuple[int, ...] | tuple[str, ...]
    """Rows of the file, or files in the folder, in the order that they were taken in."""
    scenes: tuple[str, ...]
    """Each pair's scene; of the official file, whose pairs are in the order of scenes, all are one."""
    name: str
    """What the data set calls the split."""

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, indices: np.ndarray) -> Pairs:
        """The pairs at ``indices``, in their order."""
        keys: Any = tuple(self.keys[i] for i in indices)
        return Pairs(self.path, keys, tuple(self.scenes[i] for i in indices), self.name)

    def sizes(self) -> list[int]:
        """Return the bytes of the files that hold the pairs."""
        files = [self.path / key for key in self.keys if isinstance(key, str)] or [self.path]
        return [file.stat().st_size for file in files]

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The i-th image, (3, H, W) uint8, and its depths, (H, W) float32 in metres; 0 is no reading.

        Raises:
            ValueError: it cannot be read; the sentence names the file.
        """
        key = self.keys[i]
        if isinstance(key, str):
            with opened(self.path / key) as file:
                _require_shapes(self.path / key, file, PAIR)
                rgb, depth = file["rgb"][()], file["depth"][()]
        else:  # MATLAB's arrays have their last dimension first
            with opened(self.path) as file:
                rgb, depth = file["images"][key].transpose(0, 2, 1), file["depths"][key].T
        read = np.isfinite(depth) & (depth > 0)
        return rgb, np.where(read, depth, np.float32(0))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file while it is read; what is wrong with it is a ValueError that names it."""
    with reading(path):
        with path.open("rb") as raw:
            if raw.read(10) == b"MATLAB 5.0":
                raise ValueError("it is a MATLAB v5 file, and not v7.3, which is HDF5")
        with h5py.File(path) as file:
            yield file


def read(data: str) -> tuple[Pairs, Pairs, str]:
    """The split to train on, the one to evaluate, and the data set's name: of a folder in either layout.

    The name is ``nyu-depth-v2`` for the official file and for a folder whose val is ``val/official``, as that of NYU is
    called where it is handed round; else the folder's name, followed by that of the scene if there is only one.

    Raises:
        ValueError: the data are not there, or not in a known form; nothing but shapes was read.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {data}: --data takes one that holds {EXPECTED}")
    if (folder / LABELED).exists():
        return *_labeled(folder), NAME
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        missing = " and no ".join(name for name in (LABELED, "train", "val") if not (folder / name).exists())
        raise ValueError(f"{folder} has no {missing}: put there {EXPECTED}")
    train, val = _scenes(folder / "train"), _scenes(folder / "val")
    names = sorted({*train.scenes, *val.scenes})
    if set(val.scenes) == {"official"}:
        return train, val, NAME
    return train, val, "-".join([folder.resolve().name, *(names if len(names) == 1 else [])])


def _labeled(folder: Path) -> tuple[Pairs, Pairs]:
    path = folder / LABELED
    with opened(path) as file:
        _require_shapes(path, file, {"images": ("N", 3, "W", "H", "uint8"), "depths": ("N", "W", "H", "float32")})
        count = len(file["images"])
    if not (folder / SPLITS).exists():
        raise ValueError(f"{folder} has no {SPLITS}, which says what is trained on: fetch it from where {LABELED} is")
    with reading(folder / SPLITS):
        matlab = read_numbers(folder / SPLITS)
        for name in ("trainNdxs", "testNdxs"):
            numbers = matlab.get(name)
            if numbers is None or not np.array_equal(numbers, np.round(numbers)):
                raise ValueError(f"it has no whole numbers {name}")
        train, test = (np.sort(matlab[name].astype(np.int64)) - 1 for name in ("trainNdxs", "testNdxs"))
    rows = np.concatenate([train, test])
    within = len(train) and len(test) and rows.min() >= 0 and rows.max() < count
    if not within or len(set(rows)) < len(rows):
        span = f", from {rows.min() + 1} to {rows.max() + 1}" if len(rows) else ""
        raise ValueError(
            f"{folder / SPLITS} does not part the {count} pairs of {LABELED} (it has {len(train)} to train and "
            f"{len(test)} to test{span}): fetch both anew"
        )
    one = ("",) * len(rows)
    return (
        Pairs(path, tuple(train.tolist()), one[: len(train)], "train"),
        Pairs(path, tuple(test.tolist()), one[: len(test)], "test"),
    )


def _scenes(split: Path) -> Pairs:
    """A folder's scenes, and of each its files by number."""
    scenes = sorted(scene for scene in split.iterdir() if scene.is_dir() and not scene.name.startswith("."))
    if not scenes:
        raise ValueError(f"{split} has no scenes: put there a folder a scene, SCENE/NNNNN.h5")
    keys: list[str] = []
    for scene in scenes:
        files = sorted(scene.glob("*.h5"), key=lambda file: (len(file.stem), file.stem))
        if not files:
            raise ValueError(f"{scene} has no pairs: put NNNNN.h5 there, or remove the folder")
        for file in files:
            with opened(file) as opened_file:
                _require_shapes(file, opened_file, PAIR)
            keys.append(f"{scene.name}/{file.name}")
    return Pairs(split, tuple(keys), tuple(key.partition("/")[0] for key in keys), split.name)


def _require_shapes(path: Path, file: Any, expected: dict[str, tuple[Any, ...]]) -> None:
    """Raise a ValueError where a file lacks an array, or where types or shapes do not fit.

    A letter in ``expected`` is any size above 0, the same wherever it stands.
    """
    links = {name: file.get(name, getlink=True) for name in file}
    own = [name for name, link in links.items() if isinstance(link, h5py.HardLink)]  # others may lead to other files
    arrays = {name: file[name] for name in own if isinstance(file[name], h5py.Dataset)}
    for name in expected:
        if name not in arrays:
            raise ValueError(f"it has no data set {name}, there are {', '.join(arrays) or 'none'}")
    for name in expected:
        if arrays[name].external or arrays[name].is_virtual:
            raise ValueError(f"{name} lies in another file, which is not followed")
        require_size(arrays[name].nbytes, path.stat().st_size, HDF5_RATIO)
    actual = {name: (*arrays[name].shape, str(arrays[name].dtype)) for name in expected}
    sizes: dict[Any, Any] = {}
    fits = all(len(actual[name]) == len(expected[name]) for name in expected) and all(
        size and size == (sizes.setdefault(letter, size) if letter in LETTERS else letter)
        for name in expected
        for size, letter in zip(actual[name], expected[name], strict=True)
    )
    if not fits:
        has, needs = (
            " and ".join(f"{name} ({', '.join(map(str, shape))}) {kind}" for name, (*shape, kind) in each.items())
            for each in (actual, expected)
        )
        raise ValueError(f"it has {has}, and {needs} are needed")


def held_out(pairs: Pairs, share: float) -> tuple[Pairs, Pairs]:
    """The pairs to train on, and a ``share`` of each scene's, its last ones, to validate on: next frames look alike."""
    scenes = np.array(pairs.scenes)
    last = np.zeros(len(pairs), bool)
    for scene in dict.fromkeys(pairs.scenes):
        (at,) = np.nonzero(scenes == scene)
        last[at[len(at) - round(share * len(at)) :]] = True
    return pairs.part(np.flatnonzero(~last)), pairs.part(np.flatnonzero(last))


def spread(pairs: Pairs, number: int) -> Pairs:
    """At most ``number`` pairs (0: all), evenly spread."""
    if not 0 < number < len(pairs):
        return pairs
    return pairs.part(np.arange(number) * len(pairs) // number)
