"""Batches of tokens beside the tokenizer's own, and examples that are too long."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from tasks.text.glue_dataset import Split
from tasks.text.tokens import grouped, sorted_by_length, tokenized
from tests.tasks.tiny_data import sentences
from tests.tasks.tiny_tasks import glue_task

pytestmark = pytest.mark.usefixtures("without_type_checks")


def test_batches_are_as_the_tokenizer_pads_them(tmp_path: Path) -> None:
    task = glue_task(tmp_path, validation=0.0)
    tokenizer = task.encoder.tokenizer
    rows = torch.tensor([3, 17, 5])
    table = datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    pairs = [(table["sentence1"][i], table["sentence2"][i]) for i in rows.tolist()]
    expected = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    batch = task.training.batch(rows, torch.device("cpu"))
    assert set(batch.inputs) == set(expected)
    for name, values in batch.inputs.items():
        assert torch.equal(values, expected[name])
    assert batch.labels.tolist() == [table["label"][i] for i in rows.tolist()]


def test_what_is_too_long_is_cut_counted_and_said_once(tmp_path: Path) -> None:
    sentences(tmp_path)
    with pytest.warns(UserWarning, match="examples, .* of them to train on, are longer than") as caught:
        task = glue_task(tmp_path, length=12)
    assert len(caught) == 1
    tokenizer = task.encoder.tokenizer
    texts = ["cat " * 20, "dog"], ["mat", "mat is here"]
    examples = tokenized(Split(texts, torch.tensor([0, 1])), tokenizer, 12)
    assert examples.truncated == 1
    assert examples.lengths.tolist() == [12, 7]
    ids = tokenizer.convert_ids_to_tokens(examples.inputs["input_ids"][:12])
    assert ids == ["[CLS]", *["cat"] * 8, "[SEP]", "mat", "[SEP]"]
    assert task.log() == {"truncated": task.training.truncated}
    assert task.training.truncated > 0
    assert task.validation is not None
    truncated = sum(examples.truncated for examples in (task.training, task.validation, *task.evaluated.values()))
    assert f"{truncated} of 60 examples, {task.training.truncated} of them to train on" in str(caught[0].message)
    assert task.validation.truncated > 0


def test_batches_of_like_length_hold_every_example_once() -> None:
    lengths = torch.randint(5, 60, (1003,), generator=torch.Generator().manual_seed(0))
    batches = list(grouped(lengths, 8, np.random.default_rng(0)))
    assert sorted(torch.cat(batches).tolist()) == list(range(1003))
    spread = [int(lengths[b].max() - lengths[b].min()) for b in batches]
    assert np.mean(spread) < 3  # of 55, in random batches of eight about 43
    means = torch.tensor([lengths[b].float().mean() for b in batches])
    assert abs(float(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1])) < 0.3
    ordered = torch.cat(list(sorted_by_length(lengths, 16)))
    assert lengths[ordered].tolist() == sorted(lengths.tolist(), reverse=True)
