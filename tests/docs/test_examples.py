"""Every file in ``examples/`` runs as it stands, without a connection, and says what it did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAYS = {
    "quickstart": "test accuracy",
    "prune_once": "after another epoch",
    "hf_trainer": "pruned at epoch 3",
    "lightning_module": "pruned at epoch 4",
    "new_task": "the files are in",
    "new_criterion": "pruned at epoch 0: before training",
    "checkpoint_and_resume": "largest difference of a weight: 0.0e+00",
    "several_gpus": "process 1 of 2",
}
"""Example -> a part of what it prints."""
RUN = """
import runpy, sys
from earlycrop.utils.torchvision_compat import load_torchvision
load_torchvision()  # a library that imports it also loads where its operators do not
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{name}.py"
    command = [sys.executable, "-c", RUN, str(path)] if name != "several_gpus" else [sys.executable, str(path)]
    command += ["--runs", str(tmp_path)] * (name == "new_task")
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
