"""Texts as tokens, held flat, and batches of them that are as wide as their longest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.text.glue_dataset import Split

CHUNK = 1000
"""Examples that are tokenized at once: the tokenizer's own objects are large."""
NEIGHBOURS = 50
"""Batches' worth of examples within which those of like length are grouped, as transformers' own sampler has it."""


class Batch(NamedTuple):
    """Sequences of one width."""

    inputs: dict[str, Tensor]
    """What the model is given by name, (N, width) int64 each; ``attention_mask`` is 0 on padding."""
    labels: Tensor
    """(N,)."""


@dataclass(frozen=True)
class Examples:
    """Tokens of many examples, one after another."""

    inputs: Mapping[str, Tensor]
    """What the model is given by name, (all tokens,) int32."""
    padding: Mapping[str, int]
    """What each of them has on padding."""
    starts: Tensor
    """(N + 1,): where each example starts, and the last one ends."""
    labels: Tensor
    """(N,)."""
    truncated: int
    """How many were longer than they may be."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Tensor:
        """(N,): tokens of each."""
        return self.starts.diff()

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        """Those examples, padded on the right to the longest of them."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths[:, None]
        places = (self.starts[rows, None] + places).where(mask, 0)
        inputs = {n: flat[places].long().where(mask, self.padding[n]) for n, flat in self.inputs.items()}
        inputs["attention_mask"] = mask.long()
        return Batch({n: t.to(device) for n, t in inputs.items()}, self.labels[rows].to(device))


def tokenized(split: Split, tokenizer: Any, length: int) -> Examples:
    """Every example with its special tokens, at most ``length`` long: of a pair, the longer text is cut first."""
    names = [n for n in tokenizer.model_input_names if n != "attention_mask"]
    flat: dict[str, list[np.ndarray]] = {n: [] for n in names}
    lengths: list[int] = []
    truncated = 0
    for start in range(0, len(split.labels), CHUNK):
        texts = [column[start : start + CHUNK] for column in split.texts]
        encoded = tokenizer(*texts, return_attention_mask=False, verbose=False)
        for i, ids in enumerate(encoded["input_ids"]):
            if len(ids) > length:
                truncated += 1
                short = tokenizer(*(column[i] for column in texts), truncation=True, max_length=length)
                for n in names:
                    encoded[n][i] = short[n]
            lengths.append(len(encoded["input_ids"][i]))
        for n in names:
            flat[n] += [np.asarray(values, dtype=np.int32) for values in encoded[n]]
    padding = {n: tokenizer.pad_token_type_id if n == "token_type_ids" else tokenizer.pad_token_id for n in names}
    return Examples(
        {n: torch.from_numpy(np.concatenate(column)) for n, column in flat.items()},
        padding, torch.tensor([0, *lengths]).cumsum(0), split.labels, truncated,
    )  # fmt: skip


def grouped(lengths: Tensor, size: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Every example once, in batches of like length, in a random order; the last batch may be smaller."""
    order = random.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), NEIGHBOURS * size):
        near = order[start : start + NEIGHBOURS * size]
        near = near[np.argsort(lengths.numpy()[near], kind="stable")]
        batches += [near[i : i + size] for i in range(0, len(near), size)]
    for i in random.permutation(len(batches)):
        yield torch.from_numpy(batches[i])


def sorted_by_length(lengths: Tensor, size: int) -> Iterator[Tensor]:
    """Every example once, in batches of like length, the longest first."""
    yield from torch.split(lengths.argsort(descending=True, stable=True), size)
