"""Scoring batches with as many examples of each class, for the method whose authors take such."""

from __future__ import annotations

import torch

from tasks import digits
from tasks.data.batches import balanced


def test_every_batch_has_as_many_of_each_class_until_one_runs_out() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 6)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    again = balanced(order, labels)
    assert sorted(again.tolist()) == list(range(15))
    for start in (0, 3, 6):
        assert sorted(labels[again[start : start + 3]].tolist()) == [0, 1, 2]
    assert set(labels[again[9:]].tolist()) == {0, 2}
    for label in range(3):
        assert again[labels[again] == label].tolist() == order[labels[order] == label].tolist()


def test_only_grasp_scores_on_balanced_batches() -> None:
    for method, criterion, even in (("grasp", "", True), ("snip", "", False), ("crop-u", "grasp", True)):
        task = digits.make(digits.Options(method=method, criterion=criterion, batch=50))
        counts = [torch.bincount(labels, minlength=10) for _, labels in task.scoring_batches(task.model(), 0)]
        assert all((count == 5).all() for count in counts) == even
