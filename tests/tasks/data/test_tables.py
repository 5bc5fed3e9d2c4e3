"""Parquet files of a data set's splits: which of a folder are taken together, and which are refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest

from tasks.data.tables import read, split_files

SPLITS = {"train": ("train",), "valid": ("valid", "validation")}


def touched(folder: Path, names: str) -> Path:
    for name in names.split():
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "train"),
    [
        ("train valid test", ["train"]),
        ("train validation", ["train"]),
        ("train train_extra valid", ["train"]),
        ("train-00000-of-00001 validation-00000-of-00001 test-00000-of-00001", ["train-00000-of-00001"]),
        ("train-00001-of-00002 train-00000-of-00002 valid", ["train-00000-of-00002", "train-00001-of-00002"]),
        ("data/train data/valid", ["data/train"]),
        ("plain_text/train-00000-of-00001 plain_text/valid", ["plain_text/train-00000-of-00001"]),
        ("hub/rte/data/train hub/rte/data/valid", ["hub/rte/data/train"]),
        ("default/train/0001 default/train/0000 default/valid/0000", ["default/train/0000", "default/train/0001"]),
        ("train/train-00000-of-00001 valid/valid-00000-of-00001", ["train/train-00000-of-00001"]),
        ("train valid train/0000 .train train/.train", ["train"]),
        ("train/0000 train/.0000 valid", ["train/0000"]),
    ],
)
def test_a_split_is_one_file_or_all_of_its_shards(names: str, train: list[str], tmp_path: Path) -> None:
    touched(tmp_path, names)
    assert split_files(tmp_path, ["train"]) == [tmp_path / f"{name}.parquet" for name in train]
    assert len(split_files(tmp_path, SPLITS["valid"])) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train train-00000-of-00001", "F/train-of-00001.parquet and F/train.parquet are all train splits: leave one"),
        ("train old/train", "F/old/train.parquet and F/train.parquet are all train splits: leave one of them in F"),
        ("a/train-00000-of-00001 b/train-00000-of-00001", "F/a/train-of-00001.parquet and F/b/train-of-00001.parquet"),
        (
            "train-00000-of-00001 train-00000-of-00002 train-00001-of-00002",
            "F/train-of-00001.parquet and F/train-of-00002.parquet are all train splits: leave one of them in F",
        ),
        ("a/train/0 b/train/0", "F/a/train and F/b/train are all train splits: leave one of them in F"),
        ("train-00000-of-00003 train-00002-of-00003", "F has 2 of the 3 files of train: fetch them all"),
    ],
)
def test_what_may_be_another_s_is_named(names: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        split_files(touched(tmp_path, names), ["train"])
    assert str(raised.value).startswith(message.replace("F/", f"{tmp_path}/").replace("F has", f"{tmp_path} has")[:-1])


def test_two_names_of_one_split_are_two_sets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"valid.parquet and .*validation.parquet are all valid splits: leave one of"):
        split_files(touched(tmp_path, "valid validation"), SPLITS["valid"])


def test_shards_are_read_in_their_order_and_what_is_missing_is_named(tmp_path: Path) -> None:
    for number, texts in enumerate((["a", "b"], ["c"])):
        rows = datasets.Dataset.from_dict({"text": texts})
        rows.to_parquet(tmp_path / f"train-0000{number}-of-00002.parquet")
    assert read(str(tmp_path), {"train": ["train"]}, "files")["train"]["text"][:] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"has no valid.parquet and no shards of it: put there files"):
        read(str(tmp_path), SPLITS, "files")
    with pytest.raises(ValueError, match=r"there is no folder data/nowhere: --data takes .*, or a folder with files"):
        read("data/nowhere", SPLITS, "files")


def test_a_file_that_takes_another_s_place_is_read_anew(tmp_path: Path) -> None:
    """Even with the same path, size and times, as cp -p, rsync -t and tar leave them."""
    file = tmp_path / "train.parquet"
    for text in ("before", "after!"):
        datasets.Dataset.from_dict({"text": [text]}).to_parquet(file)
        os.utime(file, ns=(10**18, 10**18))
        assert read(str(tmp_path), {"train": ["train"]}, "files")["train"]["text"][:] == [text]


def test_a_folder_s_name_may_look_like_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "da[1]ta *?"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(folder / "train.parquet")
    assert read(str(folder), {"train": ["train"]}, "files")["train"]["text"][:] == ["a"]


def test_a_file_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path: Path) -> None:
    zeros = pyarrow.array(np.zeros(140_000_000, np.int64))
    pyarrow.parquet.write_table(pyarrow.table({"label": zeros}), tmp_path / "train.parquet")
    with pytest.raises(
        ValueError,
        match=r"train.parquet cannot be read \(its .* bytes would unpack to 1,120,000,000, and 1,073,741,824 a",
    ):
        read(str(tmp_path), {"train": ["train"]}, "files")
