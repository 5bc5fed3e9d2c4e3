"""Scores in float32 rank as those in float64 do, on every task's network and by every criterion."""

from __future__ import annotations

import copy
import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.utils._pytree import tree_map

import tasks
from earlycrop import CRITERIA
from earlycrop.scoring.scores import weight_scores
from tests.tasks.tiny_data import SMALLER, TINY_DATA

CONTROL = {"agents": 2, "rollout": 16, "scoring_rollouts": 1, "scoring_length": 16}


def tiny_task(name: str, folder: Path) -> tasks.Task:
    """A task on a few examples: control with its own network, images with a residual network of 8 layers."""
    module = importlib.import_module(f"tasks.{name}")
    given = {"validation": 0.2, **CONTROL, **SMALLER.get(name, {})}
    if name in TINY_DATA:
        given |= {"data": str(folder), **(TINY_DATA[name](folder) or {})}
    known = {field.name for field in fields(module.Options)}
    task: tasks.Task = module.make(module.Options(**{key: value for key, value in given.items() if key in known}))
    return task


def widen(value: Any) -> Any:
    """Return a floating tensor in float64, and anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "name", [n if n == "cartpole" else pytest.param(n, marks=pytest.mark.slow) for n in tasks.names()]
)
def test_float32_ranks_as_float64(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = tiny_task(name, tmp_path)
    model = task.model()
    wide = copy.deepcopy(model).double()
    batches = list(task.scoring_batches(model, 1))
    wide_batches = tree_map(widen, batches)
    for key in CRITERIA.keys() - {"random"}:  # which draws other numbers in float64
        scores, expected = (
            torch.cat([score.flatten() for score in weight_scores(m, CRITERIA[key], task.loss, b).values()]).double()
            for m, b in ((model, batches), (wide, wide_batches))
        )
        assert scores.isfinite().all(), key
        assert float(spearmanr(scores, expected).statistic) >= 0.999, key
