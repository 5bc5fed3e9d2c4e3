"""Runs: every method's record, killed and resumed runs, and failures in a sentence."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
from earlycrop import METHODS
from earlycrop.scoring.loss_terms import total_loss
from tasks import cartpole
from tasks.runner import command_line, outcome, training_loop
from tasks.runner.machine import cpu_model, load_average
from tasks.runner.training_loop import diagnostics_change
from tests.tasks.runs import command, contents, folder, root

pytestmark = pytest.mark.usefixtures("without_type_checks")

PRUNED = {"after": 5, "mask_distance": 3, "lazy_regime": 3, "before": 0}
"""The epoch of the pruning by the method's trigger, of a budget of six."""


def test_a_method_that_the_network_is_not_made_for_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path, "--method", "gatedecorators"))
    assert left.value.code == 2
    assert "error: gatedecorators puts its gates on the scales of batch norms" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


TAKEN = ("dense", "earlycrop-s", "crop-u", "ltr")
"""None, a structured and an unstructured one, and one that trains for longer than its epochs."""


@pytest.mark.parametrize(
    "method",
    [m if m in TAKEN else pytest.param(m, marks=pytest.mark.slow) for m in METHODS if m != "gatedecorators"],
)
def test_every_method_runs_to_a_record(method: str, tmp_path: Path) -> None:
    result = command_line.main("cartpole", command(tmp_path, "--method", method, "--sparsity", "0.6"))
    run = folder(tmp_path)
    assert {p.name for p in run.iterdir()} >= {
        "config.json",
        "log.jsonl",
        "checkpoint",
        "model.safetensors",
        "result.json",
    }
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    # of ltr five trainings after the first, at 20, 36, 48.8, 59.04 and 60 %, each from the first epoch on
    total = 6 + 5 * 5 if method == "ltr" else 6
    begins = 0 if log[0]["event"] and log[0]["event"]["epoch"] == 0 else 1  # a pruning before training has its line
    assert (begins == 0) == (METHODS[method].trigger.__name__ == "before")
    assert [line["epoch"] for line in log] == list(range(begins, total + 1))
    assert (result.epochs, result.epochs_trained) == (6, total)
    assert result.run == run.name
    assert result.method == method
    assert result.commit == outcome.commit()
    assert (result.device, result.threads) == (cpu_model(), torch.get_num_threads())
    assert result.load is None or result.load >= 0
    dense = 4 * 16 + 16 * 16 + 16 * 2 + 16
    if method == "dense":
        assert (result.weight_sparsity, result.sparsity_asked, result.pruned_epoch) == (0.0, None, None)
        assert result.macs == dense
        assert (result.of_macs_limit, result.dense_step_bytes) == (1.0, result.step_bytes)
        assert result.parameters == dense + 16 + 16 + 2 + 1
    else:
        assert result.weight_sparsity >= 0.6
        at = total - 5 if method == "ltr" else PRUNED[METHODS[method].trigger.__name__]
        assert result.pruned_epoch == at
        assert (result.macs < dense) == METHODS[method].structured == result.structured
    model = earlycrop.load(run, cartpole.make(cartpole.Options(widths=(16, 16))).model())
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1) == round(
        dense * (1 - result.weight_sparsity)
    )
    assert result.disk_bytes == (run / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    "method",
    ["earlycrop-s", pytest.param("earlycrop-u", marks=pytest.mark.slow), pytest.param("snap", marks=pytest.mark.slow)],
)
def test_a_killed_run_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    """Killed by the system at some moment of its third epoch or later, and started again with the same command."""
    more = ["--method", method, "--sparsity", "0.7", "--steps", "12000"]
    command_line.main("cartpole", command(tmp_path / "whole", *more))
    line = [sys.executable, "-m", "tasks.cartpole", *command(tmp_path / "killed", *more)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root())
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("*/checkpoint/epoch-0000[2345]")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder(tmp_path / "killed") / "result.json").exists(), "it finished before it could be killed"
    command_line.main("cartpole", command(tmp_path / "killed", *more))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


CUT_OFF = ("--method", "earlycrop-u", "--sparsity", "0.7")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that was not cut off."""
    runs = tmp_path_factory.mktemp("whole")
    command_line.main("cartpole", command(runs, *CUT_OFF))
    return runs


@pytest.mark.parametrize(
    "after", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow), 5]
)
def test_an_error_at_any_epoch_loses_nothing(
    after: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training_loop.train

    def interrupted(task: Any, model: Any, optimizer: Any, epoch: int, rate: Any, to: Any) -> float:
        if epoch == after + 1:
            raise KeyboardInterrupt
        return train(task, model, optimizer, epoch, rate, to)

    monkeypatch.setattr(training_loop, "train", interrupted)
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path / "cut", *CUT_OFF))
    assert left.value.code == 130
    monkeypatch.setattr(training_loop, "train", train)
    assert [p.name for p in (folder(tmp_path / "cut") / "checkpoint").iterdir()] == [f"epoch-{after:05d}"]
    command_line.main("cartpole", command(tmp_path / "cut", *CUT_OFF))
    assert contents(uninterrupted) == contents(tmp_path / "cut")


def test_control_c_leaves_a_checkpoint_and_a_sentence(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tasks.cartpole", *command(tmp_path, "--steps", "3000000")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root())
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/checkpoint/epoch-00000")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output


def test_a_finished_run_returns_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = command_line.main("cartpole", command(tmp_path))
    said = capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in folder(tmp_path).rglob("*") if p.is_file() and p.name != ".lock"}
    assert command_line.main("cartpole", command(tmp_path)) == first
    again = capsys.readouterr().out
    assert again.startswith("finished on ")
    assert again.splitlines()[1:] == said.splitlines()[-len(again.splitlines()) + 1 :], "the same result"
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_loss_that_is_not_a_number_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    loss = cartpole.A2C.training_loss
    seen = []

    def diverging(self: Any, model: Any, batch: Any) -> torch.Tensor:
        seen.append(1)
        value = total_loss(loss(self, model, batch))
        return value * float("nan") if len(seen) == 30 else value

    monkeypatch.setattr(cartpole.A2C, "training_loss", diverging)
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path))
    assert left.value.code == 1
    failure = json.loads((folder(tmp_path) / "failure.json").read_text())
    output = capsys.readouterr().err
    assert f"the loss is nan in epoch {failure['epoch']}, step {failure['step']}" in output
    (checkpoint,) = (folder(tmp_path) / "checkpoint").iterdir()
    assert checkpoint.name == f"epoch-{failure['epoch'] - 1:05d}"
    per_epoch = [json.loads(line)["epoch"] for line in (folder(tmp_path) / "log.jsonl").read_text().splitlines()]
    assert per_epoch == list(range(1, failure["epoch"]))
    seen += [1] * 100
    command_line.main("cartpole", command(tmp_path))  # mended, it goes on from there
    assert not (folder(tmp_path) / "failure.json").exists()


@pytest.mark.parametrize(
    ("method", "epoch"),
    [("evaluate", 6), ("validate", 3), pytest.param("validate", 1, id="validate the first", marks=pytest.mark.slow)],
)
def test_what_is_measured_and_not_finite_stops_the_run_as_a_loss_does(
    method: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = []

    def measured(self: Any, model: Any) -> Any:
        calls.append(1)
        value = float("inf") if method == "evaluate" or len(calls) == epoch else 1.0
        return value if method == "evaluate" else {"return": value}

    with monkeypatch.context() as patch:
        patch.setattr(cartpole.A2C, method, measured)
        with pytest.raises(SystemExit) as left:
            command_line.main("cartpole", command(tmp_path, "--method", "dense"))
    assert left.value.code == 1
    output = capsys.readouterr().err
    assert (
        f"error: the return is inf after epoch {epoch}: training has diverged. The last checkpoint is kept; a" in output
    )
    run = folder(tmp_path)
    assert json.loads((run / "failure.json").read_text()) == {"epoch": epoch, "return": "inf"}
    assert "Infinity" not in (run / "log.jsonl").read_text()
    (kept,) = (run / "checkpoint").iterdir()
    assert kept.name == f"epoch-{epoch if method == 'evaluate' else epoch - 1:05d}"
    command_line.main("cartpole", command(tmp_path, "--method", "dense"))  # mended, it goes on from there
    assert not (run / "failure.json").exists()


@pytest.mark.parametrize(("method", "epoch"), [("snap", 0), ("earlycrop-u", 3)])
def test_a_pruning_that_fails_is_a_sentence(
    method: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cartpole.A2C, "training_loss", cartpole.A2C.loss)  # training itself goes on
    monkeypatch.setattr(cartpole.A2C, "loss", lambda self, model, batch: model(batch.observations)[0].mean() / 0)
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path, "--method", method))
    assert left.value.code == 2
    assert f"pruning after epoch {epoch} failed: the loss is" in capsys.readouterr().err


def test_what_a_pruning_upset_by_hand() -> None:
    was = {"accuracy": 0.5, "prediction": torch.tensor([[0.5, 0.5]]).log()}
    now = {"accuracy": 0.25, "prediction": torch.tensor([[0.25, 0.75]]).log()}
    change = diagnostics_change(was, now)
    assert change["accuracy_before"] == 0.5
    assert change["accuracy_after"] == 0.25
    assert change["prediction_moved"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_the_machine_is_told_as_far_as_its_system_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 2.0, 3.0), raising=False)
    assert load_average() == 1.5
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None
    assert cpu_model()


def test_a_copy_of_a_checkout_has_the_commit_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYCROP_COMMIT", "0012345-dirty")
    assert outcome.commit() == "0012345-dirty"
