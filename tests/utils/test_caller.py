"""Warnings name the line of the user's code, whatever lies between it and the library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SETUP = """
import torch
import earlycrop
from torch import nn
model = lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 30))
batches = [torch.randn(4, 6)]
loss = lambda model, batch: model(batch).square().mean()
"""
LINES = {
    "earlycrop.Pruner(model(), [], loss, epochs=4)": "no optimizer",
    'earlycrop.prune(model(), loss, batches, "random", sparsity=0.985, structured=False)': "hardly anything is left",
    "earlycrop.prune(model(), loss, batches, sparsity=0.999)": "could be removed",
}
"""A line of a program -> what its warning says."""


def test_warnings_point_at_the_lines_of_the_caller(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SETUP + "".join(f"def work():\n    {line}\nwork()\n" for line in LINES))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=env)
    first = len(SETUP.splitlines()) + 2
    for i, warning in enumerate(LINES.values()):
        lines = [line for line in done.stderr.splitlines() if f"{program}:{first + 3 * i}: UserWarning" in line]
        assert any(warning in line for line in lines), (warning, done.stderr)
