"""Every task trains, prunes, stops and goes on with its model on the device."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import tasks
from earlycrop import measure
from tasks.runner import command_line
from tasks.runner.options import Options
from tests.tasks.runs import contents, folder, until
from tests.tasks.tiny_data import SMALLER, TINY_DATA

pytestmark = [
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore:hardly anything is left"),
    pytest.mark.filterwarnings("ignore:.*lacks dense predictions"),
    pytest.mark.filterwarnings("ignore:this Bert.* was shrunk"),
]
CONTROL = {
    "steps": 600, "agents": 2, "rollout": 16, "widths": (16, 16), "scoring_rollouts": 1, "scoring_length": 16,
}  # fmt: skip
TINY = {
    **SMALLER, **dict.fromkeys(("acrobot", "cartpole", "lunarlander"), CONTROL),
    "ptb": {**SMALLER["ptb"], "embedding": 6, "widths": (9, 7)},
    "digits": {"widths": (8, 8, 16), "scoring": 1, "batch": 256},
}  # fmt: skip
OFTEN = {("cartpole", "earlycrop-s"), ("ptb", "earlycrop-u"), ("cartpole", "crop-u"), ("ptb", "crop-s")}
"""Tasks and methods that run before every commit. All others run by `make test-all`."""


def every_task(*methods: str) -> list[Any]:
    """Every task with each of the methods."""
    keys = [(name, method) for name in tasks.names() for method in methods]
    return [pytest.param(*key, marks=() if key in OFTEN else pytest.mark.slow) for key in keys]


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_SECONDS", 0.1)


def options_of(name: str, data: Path, runs: Path, device: torch.device, **changed: Any) -> Options:
    """A tiny run of a task for three epochs, on data that are written into a folder."""
    kind = importlib.import_module(f"tasks.{name}").Options
    known = {field.name for field in fields(kind)}
    given: dict[str, Any] = {
        "runs": runs,
        "device": device.type,
        "epochs": 3,
        "sparsity": 0.5,
        "validation": 0.2,
        "rounds": 1,
    }
    given |= TINY.get(name, {})
    if name in TINY_DATA:
        given |= {"data": str(data), **(TINY_DATA[name](data) or {})}
    return kind(**{key: value for key, value in {**given, **changed}.items() if key in known})  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "method"), every_task("earlycrop-s", "earlycrop-u"))
def test_a_task_goes_on_where_it_stopped(name: str, method: str, device: torch.device, tmp_path: Path) -> None:
    """Deterministic algorithms are asked for, as the numbers are to be the same."""
    for i, stops in enumerate(([], [1, 2])):
        runs = tmp_path / str(i)
        options = options_of(name, tmp_path / "data", runs, device, method=method, deterministic=True)
        for stop in stops:
            with pytest.raises(KeyboardInterrupt):
                until(stop, name, options, runs)
        result, _ = until(-1, name, options, runs)
        assert result.epochs_trained == 3
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


@pytest.mark.parametrize(("name", "method"), every_task("crop-s", "crop-u"))
def test_a_task_that_is_pruned_on_the_cpu(name: str, method: str, device: torch.device, tmp_path: Path) -> None:
    options = options_of(name, tmp_path / "data", tmp_path, device, method=method, prune_on="cpu")
    result, store = until(-1, name, options, tmp_path / "runs")
    assert result.pruned_epoch == 0
    assert result.step_bytes > 0
    assert store.result() is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_a_task_draws_what_it_learned(name: str, device: torch.device, tmp_path: Path) -> None:
    module = importlib.import_module(f"tasks.{name}")
    task = module.make(options_of(name, tmp_path / "data", tmp_path, device))
    if type(task).record is tasks.Task.record:
        pytest.skip("it has nothing to draw")
    pictures = task.record(task.model().to(device), tmp_path)
    assert pictures
    assert all(path.exists() for path in pictures)


@pytest.mark.slow
def test_the_command_line(device: torch.device, tmp_path: Path) -> None:
    arguments = ["--method", "earlycrop-s", "--sparsity", "0.5", "--epochs", "3", "--steps", "600", "--agents", "2"]
    arguments += ["--rollout", "16", "--widths", "16", "16", "--record", "--deterministic"]
    result = command_line.main("cartpole", [*arguments, "--runs", str(tmp_path)])
    assert result.device == torch.get_device_module(device).get_device_name(device)
    assert list(folder(tmp_path).glob("*.gif")) or list(folder(tmp_path).glob("*.png"))
