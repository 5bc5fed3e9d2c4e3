"""HDF5 files that lead to other files of the machine or unpack to far more than they hold, and numbers of MATLAB."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from tasks.depth import nyu_dataset
from tasks.depth.matlab_file import read_numbers
from tests.tasks.tiny_data import scenes

SHAPE = (12, 16)


def external_storage(file: Any, secret: Path) -> None:
    file.create_dataset("rgb", (3, *SHAPE), np.uint8, external=[(secret, 0, 3 * 12 * 16)])


def external_link(file: Any, secret: Path) -> None:
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["rgb"] = np.zeros((3, *SHAPE), np.uint8)
    file["rgb"] = h5py.ExternalLink(secret.with_name("other.h5"), "rgb")


def virtual(file: Any, secret: Path) -> None:
    external_link(file, secret)
    del file["rgb"]
    layout = h5py.VirtualLayout((3, *SHAPE), np.uint8)
    layout[:] = h5py.VirtualSource(secret.with_name("other.h5"), "rgb", (3, *SHAPE))
    file.create_virtual_dataset("rgb", layout)


def bomb(file: Any, secret: Path) -> None:
    file.create_dataset("rgb", (3, 40_000, 40_000), np.uint8, chunks=(1, 1000, 1000), compression="gzip")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (external_storage, "rgb lies in another file, which is not followed"),
        (external_link, "it has no data set rgb"),
        (virtual, "rgb lies in another file, which is not followed"),
        (bomb, r"its [\d,]+ bytes would unpack to 4,800,000,000, and 1,073,741,824 are allowed"),
    ],
)
def test_other_files_are_not_read(write: Callable[[Any, Path], None], message: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    scenes(tmp_path / "data", 2, 1)
    with h5py.File(tmp_path / "data" / "train" / "attic" / "00001.h5", "w") as file:
        write(file, secret)
        file["depth"] = np.ones(SHAPE, np.float32)
    with pytest.raises(ValueError, match=rf"attic/00001.h5 cannot be read \({message}"):
        nyu_dataset.read(str(tmp_path / "data"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    scenes(tmp_path, 2, 1)
    os.mkfifo(tmp_path / "train" / "attic" / "00009.h5")
    with pytest.raises(ValueError, match=r"attic/00009.h5 cannot be read \(it is no file\)"):
        nyu_dataset.read(str(tmp_path))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.float64, np.uint16, np.int32, np.uint8])
def test_numbers_are_those_that_scipy_reads(kind: Any, compressed: bool, tmp_path: Path) -> None:
    arrays = {
        "trainNdxs": np.array([[1], [2], [200]], kind),
        "n": np.array([[7]], kind),
        "words": np.array(["a", "bc"]),
    }
    scipy.io.savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    read = read_numbers(tmp_path / "a.mat")
    for name in ("trainNdxs", "n"):
        assert read[name].tolist() == scipy.io.loadmat(tmp_path / "a.mat")[name].ravel().tolist()


def test_flipped_bits_of_splits_are_a_sentence_or_other_numbers(tmp_path: Path) -> None:
    """scipy ends the process at some of them."""
    file, rng = tmp_path / "a.mat", random.Random(0)
    for compressed in (False, True):
        scipy.io.savemat(file, {"trainNdxs": np.arange(40.0), "testNdxs": np.arange(9.0)}, do_compression=compressed)
        content = file.read_bytes()
        refused = 0
        for _ in range(500):
            changed = bytearray(content)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            try:
                read_numbers(file)
            except ValueError:
                refused += 1
        assert refused > (100 if compressed else 20)


def test_splits_that_unpack_to_far_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"trainNdxs": np.arange(40.0)})
    packed = zlib.compress(bytes(2**25))
    element = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    file.write_bytes(file.read_bytes()[:128] + element)
    with pytest.raises(ValueError, match="an element unpacks to more than 16,777,216 bytes"):
        read_numbers(file)
