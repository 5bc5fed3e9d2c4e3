"""Texts in the formats that people have them in, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.nets.psmm import PSMM
from tasks.runner import command_line
from tasks.text.corpus import _columns
from tasks.text.corpus import read as read_corpus
from tests.tasks.tiny_data import text

pytestmark = pytest.mark.usefixtures("without_type_checks")
PTB = Path(__file__).parents[3] / "data" / "ptb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text(tmp_path / "text")
    return tmp_path / "text"


def test_a_folder_of_text_is_read_with_ends_of_lines_and_the_training_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.tokens").write_text(" = a title = \n \n the cat\r\nthe dog", encoding="utf-8")
    (tmp_path / "wiki.valid.tokens").write_text("a bird\n", encoding="utf-8")
    (tmp_path / "wiki.test.tokens").write_text("the üb\u2028er cat\n", encoding="utf-8")
    corpus = read_corpus(str(tmp_path))
    assert corpus.name == "wiki"
    assert corpus.vocabulary == ("=", "a", "title", "<eos>", "the", "cat", "dog", "<unk>")
    assert corpus.train.tolist() == [0, 1, 2, 0, 3, 3, 4, 5, 3, 4, 6, 3]
    assert corpus.valid.tolist() == [1, 7, 3]
    assert corpus.test.tolist() == [4, 7, 7, 5, 3]
    assert corpus.end == 3


def test_parquet_as_the_hub_has_it_reads_the_same(folder: Path, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    for split, name in (("train", "train-00000-of-00001"), ("valid", "validation"), ("test", "test")):
        lines = (folder / f"ptb.{split}.txt").read_text().splitlines()
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"sentence": lines}).to_parquet(tmp_path / "hub" / f"{name}.parquet")
    plain, hub = read_corpus(str(folder)), read_corpus(str(tmp_path / "hub"))
    assert hub.name == "hub"
    assert hub.vocabulary == plain.vocabulary
    for split in ("train", "valid", "test"):
        torch.testing.assert_close(getattr(hub, split), getattr(plain, split))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["hello world", None, "hello"], "train split: text of row 1 is None, and no text: mend or remove that row"),
        ([1, 2, 3], "train split: text of row 0 is 1, and no text: mend or remove that row"),
    ],
)
def test_rows_of_parquet_files_that_are_no_text_are_named(rows: list[Any], message: str, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=f"{tmp_path}, {message}"):
        read_corpus(str(tmp_path))


def test_a_byte_order_mark_is_no_part_of_the_first_word(folder: Path) -> None:
    plain = read_corpus(str(folder))
    for file in folder.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().lstrip())
    marked = read_corpus(str(folder))
    assert marked.vocabulary == plain.vocabulary
    assert torch.equal(marked.valid, plain.valid)


def test_of_a_hub_data_set_splits_and_columns_are_found_or_named() -> None:
    import datasets

    splits = datasets.DatasetDict({
        name: datasets.Dataset.from_dict({"text": [f"{name} \n", ""]}) for name in ("train", "validation", "test")
    })  # fmt: skip
    lines = _columns("some/text", splits)
    assert lines == {"train": ["train \n", ""], "valid": ["validation \n", ""], "test": ["test \n", ""]}
    del splits["validation"]
    with pytest.raises(ValueError, match="some/text has the splits train, test, and no valid or validation"):
        _columns("some/text", splits)
    splits["validation"] = datasets.Dataset.from_dict({"label": [1]})
    with pytest.raises(ValueError, match="some/text has label, and no column sentence or text"):
        _columns("some/text", splits)


def spoil(what: str, folder: Path) -> None:
    if what == "no folder":
        folder.rename(folder.with_name("elsewhere"))
    elif what == "no file":
        (folder / "ptb.valid.txt").unlink()
    elif what == "no train":
        (folder / "ptb.train.txt").unlink()
    elif what == "empty":
        (folder / "ptb.valid.txt").write_bytes(b"\n \n")
    elif what == "latin":
        (folder / "ptb.test.txt").write_bytes(b"one\ntwo\ncaf\xe9 three\n")
    elif what == "two":
        (folder / "wiki.train.tokens").write_text("more\n")
    elif what == "parquet":
        for file in list(folder.glob("*.txt")):
            file.unlink()
        (folder / "train.parquet").write_bytes(b"no parquet")
    elif what == "broken":
        spoil("parquet", folder)
        for split in ("validation", "test"):
            (folder / f"{split}.parquet").write_bytes(b"no parquet")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no folder", "there is no folder FOLDER: --data takes"),
        ("no file", "FOLDER has no ptb.valid.txt: put it beside ptb.train.txt"),
        ("no train", "FOLDER has no *.train.txt and no *.train.tokens: put there"),
        ("empty", "FOLDER/ptb.valid.txt is empty"),
        ("latin", "FOLDER/ptb.test.txt is not UTF-8 in line 3: save it as UTF-8"),
        ("two", "FOLDER has ptb.train.txt and wiki.train.tokens: leave one corpus there"),
        ("parquet", "FOLDER has no valid.parquet and no shards of it: put there"),
        ("broken", "FOLDER/train.parquet cannot be read ("),
    ],
)
def test_bad_data_are_one_sentence_before_anything_is_written(
    what: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(what, folder)
    with pytest.raises(SystemExit) as left:
        command_line.main("ptb", ["--data", str(folder), "--runs", str(tmp_path / "runs")])
    assert left.value.code == 2
    error = capsys.readouterr().err.strip()
    assert f"error: {message}".replace("FOLDER", str(folder)) in error
    assert len([line for line in error.splitlines() if "error:" in line]) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not PTB.is_dir(), reason="the Penn Treebank is not here")
def test_the_penn_treebank_has_its_known_sizes() -> None:
    corpus = read_corpus(str(PTB))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (929_589, 73_760, 82_430)
    assert len(corpus.vocabulary) == 10_000
    assert corpus.name == "ptb"
    paper = PSMM(10_000, 300, (300,), 100, 0.3)
    assert sum(p.numel() for p in paper.parameters()) == 6_823_000  # 6.82 million, as the authors' network
