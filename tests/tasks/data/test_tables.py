"""Parquet files of a data set's splits: which of a folder are taken together, and which are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.data.tables import shards

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
        ("train-00000-of-00001 validation-00000-of-00001 test-00000-of-00001", ["train-00000-of-00001"]),
        ("train-00001-of-00002 train-00000-of-00002 valid", ["train-00000-of-00002", "train-00001-of-00002"]),
        ("data/train data/valid", ["data/train"]),
        ("plain_text/train-00000-of-00001 plain_text/valid", ["plain_text/train-00000-of-00001"]),
        ("hub/rte/data/train hub/rte/data/valid", ["hub/rte/data/train"]),
        ("default/train/0001 default/train/0000 default/valid/0000", ["default/train/0000", "default/train/0001"]),
        ("train/train-00000-of-00001 valid/valid-00000-of-00001", ["train/train-00000-of-00001"]),
        ("train valid train/0000 .train train/.train", ["train"]),
    ],
)
def test_a_split_is_one_file_or_all_of_its_shards(names: str, train: list[str], tmp_path: Path) -> None:
    found = shards(touched(tmp_path, names), SPLITS, "files")
    assert found["train"] == [tmp_path / f"{name}.parquet" for name in train]
    homes = {
        file.parent.parent if file.parent.name in SPLITS else file.parent for files in found.values() for file in files
    }
    assert len(homes) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train", "FOLDER has no valid*.parquet: put there files"),
        ("train train_extra valid", "FOLDER has train.parquet and train_extra.parquet, of which one set alone can be"),
        ("train train-00000-of-00001 valid", "FOLDER has train-00000-of-00001.parquet and train.parquet, of which"),
        (
            "train old/train valid",
            "FOLDER has old/train.parquet and train.parquet, of which one set alone can be",
        ),
        ("train valid validation", "FOLDER has valid.parquet and validation.parquet, of which one set alone can be"),
        (
            "train_all valid",
            "FOLDER has train_all.parquet, of which one set alone can be the train split: give",
        ),
        (
            "a/train-00000-of-00001 a/valid b/train-00000-of-00001 b/valid",
            "FOLDER has a/train-00000-of-00001.parquet and b/train-00000-of-00001.parquet, of which one set alone can",
        ),
        (
            "train-00000-of-00001 train-00000-of-00002 train-00001-of-00002 valid",
            "FOLDER has train-00000-of-00001.parquet and train-00000-of-00002.parquet and train-00001-of-00002.parq",
        ),
        (
            "a/train b/train c/train d/train e/train",
            "FOLDER has a/train.parquet and b/train.parquet and c/train.parquet and 2 more, of",
        ),
        (
            "train-00000-of-00003 train-00002-of-00003 valid",
            "FOLDER/train-00001-of-00003.parquet is missing, of the 3 files of the train split: fetch it, or them all",
        ),
        ("a/train/0 a/valid/0 b/train/0", "FOLDER has a/train/0.parquet and b/train/0.parquet, of which one set alone"),
        ("a/train b/valid", "FOLDER has a/train.parquet and b/valid.parquet, in several folders: put the splits that"),
    ],
)
def test_what_may_be_another_s_is_named(names: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        shards(touched(tmp_path, names), SPLITS, "files")
    assert str(raised.value).startswith(message.replace("FOLDER", str(tmp_path)))
