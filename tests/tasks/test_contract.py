"""What holds of every task, and of what the packages import."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
import tasks
from earlycrop.scoring.loss_terms import total_loss
from tasks.control import a2c
from tasks.runner.arguments import parse
from tasks.runner.options import check_values
from tasks.runner.store import configuration
from tests.tasks.runs import root
from tests.tasks.tiny_data import SMALLER, TINY_DATA


@pytest.mark.parametrize("name", [*tasks.names(), "_template"])
def test_every_task_keeps_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2c, "EPISODES", 4)
    module = importlib.import_module(f"tasks.{name}")
    assert all(module.SUMMARY)
    assert "default" in module.PRESETS
    for preset, make in module.PRESETS.items():
        options = make()
        assert parse(module, ["--preset", preset]) == replace(options, preset=preset)
        check_values(options)
        assert configuration(name, options)["task"] == name
        if name in TINY_DATA:
            options = replace(options, data=str(tmp_path), **(TINY_DATA[name](tmp_path) or {}))
        module.make(options)
        task = module.make(replace(options, **SMALLER.get(name, {})))
        model = task.model()
        assert task.optimizer(model).param_groups[0]["lr"] > 0
        batch = next(iter(task.batches(model, 1)))
        losses = []
        for loss in (task.loss, task.training_loss):
            torch.manual_seed(0)  # of dropout
            losses.append(total_loss(loss(model, batch)).detach())
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
        state = json.loads(json.dumps(task.state_dict()))
        task.load_state_dict(state)
        assert task.state_dict() == state
        assert all(isinstance(getattr(task, attribute), str) for attribute in ("dataset", "network", "metric", "split"))
        assert 0 <= task.learning_rate(0.5) < 1
        scored = list(task.scoring_batches(model, 1))
        assert scored
        loss = total_loss(task.loss(model, scored[0]))
        assert (loss.shape, bool(loss.isfinite())) == ((), True)
        earlycrop.flow(model, task.loss, scored[:1])
        if preset == "default":
            value = task.evaluate(model)
            assert isinstance(value, float)
            assert math.isfinite(value)


@pytest.mark.parametrize("name", list(TINY_DATA))
def test_the_same_data_are_known_again(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tasks.{name}")
    given = {"data": str(tmp_path), **(TINY_DATA[name](tmp_path) or {}), **SMALLER.get(name, {})}
    first, again, other = (module.make(module.Options(**{**given, **more})) for more in ({}, {}, OTHER[name]))
    assert json.loads(json.dumps(first.trained_on())) == again.trained_on()
    assert first.trained_on() != other.trained_on()


OTHER: dict[str, dict[str, Any]] = {
    **{name: {"validation": 0.3} for name in TINY_DATA if name != "ptb"}, "ptb": {"vocabulary": 5},
}  # fmt: skip
"""Options with which a task trains on other data of the same place."""


def test_torchvision_can_be_imported_and_cut() -> None:
    """In a process of its own: nothing may have declared the operators before."""
    code = (
        "import torch, earlycrop\nfrom earlycrop.utils.torchvision_compat import load_torchvision\n"
        "model = load_torchvision('torchvision.models').resnet18()\n"
        "graph = earlycrop.trace(model, torch.zeros(1, 3, 64, 64))\n"
        "cut = earlycrop.shrink(model, graph, range(0, graph.count, 3))\n"
        "print(graph.count, cut.nodes, cut.difference < 1e-5)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root())
    assert process.stdout.split() == ["2880", "960", "True"], process.stderr


def test_the_core_imports_no_task_library() -> None:
    code = "import sys, earlycrop; print([m for m in ('torchvision', 'gymnasium', 'rich', 'tyro') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root(), env=os.environ)
    assert process.stdout.strip() == "[]"
