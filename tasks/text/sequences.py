"""A text laid out as sequences of words, each with the word that follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tasks.nets.psmm import Memory

PADDING = -1
"""The target of a position that counts for nothing."""


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
