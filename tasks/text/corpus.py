"""Text in three splits as word numbers, of a folder of plain text or parquet files or of the hub, and in sequences."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tasks.data import tables
from tasks.nets.psmm import Memory

UNKNOWN, END = "<unk>", "<eos>"
SPLITS = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
"""Our name of a split -> what it is called in data sets."""
FORMS = ("txt", "tokens")
COLUMNS = ("sentence", "text")
"""What a data set of lines calls them."""
EXPECTED = "ptb.train.txt, ptb.valid.txt, ptb.test.txt or wiki.train.tokens, ..., or parquet files a split"
PADDING = -1
"""The target of a position that counts for nothing."""


Lines = dict[str, list[str]]
"""Split -> its lines."""


@dataclass(frozen=True)
class Corpus:
    """Three splits in the vocabulary of the first; each is its words, with an end after every line."""

    name: str
    vocabulary: tuple[str, ...]
    train: Tensor
    """(words,) int64, as the others."""
    valid: Tensor
    test: Tensor

    @property
    def end(self) -> int:
        """The number of the word that ends a line."""
        return self.vocabulary.index(END)


def read(data: str, max_words: int = 0) -> Corpus:
    """The corpus of a folder, or of a data set on the hub (owner/name, or owner/name:configuration).

    The vocabulary is every word of the training split, or the ``max_words`` most frequent and ``<unk>`` for others.

    Raises:
        ValueError: a split is not there, is empty, or is no text in UTF-8; the sentence names file and line.
    """
    folder = Path(data)
    files = _text_files(folder) if folder.is_dir() else {}
    if files:
        name = files["train"].name.partition(".train.")[0]
        lines = {split: _read_lines(file) for split, file in files.items()}
    else:
        name = folder.resolve().name if folder.is_dir() else data
        lines = _columns(data, tables.read(data, SPLITS, EXPECTED))
    for split, split_lines in lines.items():
        if not any(line.split() for line in split_lines):
            raise ValueError(f"{data}: the {split} split has no words: put its text there")
    counts = Counter(_words(lines["train"]))
    kept = {word for word, _ in counts.most_common(max_words or None)} | {END}
    vocabulary = tuple(dict.fromkeys(word for word in (*counts, UNKNOWN) if word in kept or word == UNKNOWN))
    number = {word: i for i, word in enumerate(vocabulary)}
    unknown = number[UNKNOWN]
    numbered = {
        split: torch.tensor([number.get(w, unknown) for w in _words(split_lines)])
        for split, split_lines in lines.items()
    }
    return Corpus(name, vocabulary, **numbered)


def _words(lines: Iterable[str]) -> Iterable[str]:
    return chain.from_iterable((*line.split(), END) for line in lines)


def _text_files(folder: Path) -> dict[str, Path]:
    """Each split's text file; nothing where there is none at all."""
    train_files = [f for form in FORMS for f in sorted(folder.glob(f"*.train.{form}"))]
    if len(train_files) > 1:
        raise ValueError(f"{folder} has {' and '.join(f.name for f in train_files)}: leave one corpus there")
    if not train_files:
        others = [f.name for form in FORMS for f in sorted(folder.glob(f"*.*.{form}"))]
        if others or not list(folder.rglob("*.parquet")):
            raise ValueError(f"{folder} has no *.train.txt and no *.train.tokens: put there {EXPECTED}")
        return {}
    files = {split: train_files[0].with_name(train_files[0].name.replace(".train.", f".{split}.")) for split in SPLITS}
    for file in files.values():
        if not file.is_file():
            raise ValueError(f"{folder} has no {file.name}: put it beside {train_files[0].name}")
    return files


def _read_lines(file: Path) -> list[str]:
    content = file.read_bytes().removeprefix(BOM_UTF8)  # a mark of some editors, and no part of the first word
    if not content.strip():
        raise ValueError(f"{file} is empty: put its text there")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file} is not UTF-8 in line {line}: save it as UTF-8") from None
    return lines[:-1] if not lines[-1] else lines


def _columns(data: str, splits: tables.Tables) -> Lines:
    """The lines of each split."""
    lines = {}
    for split, names in SPLITS.items():
        table = next((splits[name] for name in names if name in splits), None)
        if table is None:
            raise ValueError(f"{data} has the splits {', '.join(splits)}, and no {' or '.join(names)}: all are needed")
        name = next((c for c in COLUMNS if c in table.column_names), None)
        if name is None:
            raise ValueError(f"{data} has {', '.join(table.column_names)}, and no column {' or '.join(COLUMNS)}")
        lines[split] = tables.texts(f"{data}, {split} split", table, name)
    return lines


class Batch(NamedTuple):
    """Sequences of words, the word that follows each, and what came before them."""

    tokens: Tensor
    """(batch, time) int64."""
    targets: Tensor
    """(batch, time) int64, or ``PADDING`` where a text has ended."""
    memory: Memory | None = None


def streams(words: Tensor, end: int, count: int) -> Batch:
    """A text as ``count`` sequences that follow each other: every word is a target once, the word before it the input.

    Before the first word stands ``end``; what is left over of the last sequences is padding.
    """
    return _laid(words, end, count, math.ceil(len(words) / count))


def chunks(words: Tensor, end: int, length: int) -> Batch:
    """The same as sequences of ``length`` words."""
    return _laid(words, end, math.ceil(len(words) / length), length)


def _laid(words: Tensor, end: int, rows: int, columns: int) -> Batch:
    before = torch.cat([words.new_tensor([end]), words[:-1]])
    room = rows * columns - len(words)
    tokens, targets = (
        functional.pad(t, (0, room), value=v).view(rows, columns) for t, v in ((before, end), (words, PADDING))
    )
    return Batch(tokens, targets)


def parts(text: Batch, size: int, dim: int) -> Iterator[Batch]:
    """``text`` in parts of ``size`` rows (``dim`` 0) or columns (1), the last one smaller."""
    for at in range(0, text.tokens.shape[dim], size):
        index = (slice(None),) * dim + (slice(at, at + size),)
        yield Batch(text.tokens[index], text.targets[index])
