"""Warnings name the line of the user's code, whatever lies between it and the library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """
import torch
import earlycrop
from torch import nn
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
batches = [torch.randn(4, 6)]
loss = lambda model, batch: model(batch).square().mean()
"""
LINES = {
    "an impossible target": "earlycrop.prune(model, loss, batches, sparsity=0.99)",
    "no optimizer": "earlycrop.Pruner(model, [], loss, epochs=4)",
    "hardly anything": 'earlycrop.prune(model, loss, batches, "random", sparsity=0.99, structured=False)',
}


@pytest.mark.parametrize("line", LINES.values(), ids=list(LINES))
def test_a_warning_points_at_the_caller_s_line(line: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SETUP + f"def work():\n    {line}\nwork()\n")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=env)
    number = len(SETUP.splitlines()) + 2
    assert f"{program}:{number}: UserWarning" in done.stderr
