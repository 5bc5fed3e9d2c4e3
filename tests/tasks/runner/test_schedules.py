"""The learning rate over a training with a pruning in it, as the log of real runs has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.runner import command_line
from tasks.runner.schedules import one_cycle
from tests.tasks.runs import command, contents, folder

pytestmark = pytest.mark.usefixtures("without_type_checks")

EPOCHS, LARGEST = 6, 1e-3
LINEAR = [LARGEST * (1 - epoch / EPOCHS) for epoch in range(EPOCHS)]
"""What cart-pole's rate is at the start of each epoch."""


def rates(where: Path, *more: str) -> list[float]:
    command_line.main("cartpole", command(where, *more))
    return [line["learning_rate"] for line in contents(where)["log"] if line["epoch"] > 0]


def over(epochs: int) -> list[float]:
    return [LARGEST * (1 - epoch / epochs) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("method", "more", "expected"),
    [
        ("earlycrop-s", ("--trigger", "2"), [LARGEST, LARGEST, *over(4)]),
        ("crop-u", (), LINEAR),  # pruned before training
        ("earlycrop-s", ("--trigger", "0"), LINEAR),
        ("dense", (), LINEAR),
        ("magnitude-after-s", (), [*over(5), LARGEST]),  # one in each training
        ("dense", ("--schedule", "constant"), [LARGEST] * EPOCHS),
    ],
)
def test_only_a_method_that_waits_for_its_trigger_holds_the_rate(
    method: str, more: tuple[str, ...], expected: list[float], tmp_path: Path
) -> None:
    schedule = () if "--schedule" in more else ("--schedule", "after-cut")
    assert rates(tmp_path, "--method", method, "--sparsity", "0.5", *schedule, *more) == pytest.approx(expected)


def test_a_held_rate_is_the_largest_one_after_a_resume_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--method", "earlycrop-s", "--sparsity", "0.5", "--schedule", "after-cut", "--trigger", "4")
    expected = rates(tmp_path / "one", *more)

    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    from tasks.control.a2c import A2C

    with monkeypatch.context() as patch:
        batches = A2C.batches

        def interrupted(self: A2C, model: Any, epoch: int) -> Any:
            return stop() if epoch == 3 else batches(self, model, epoch)

        patch.setattr(A2C, "batches", interrupted)
        with pytest.raises(Stop):
            command_line.main("cartpole", command(tmp_path / "two", *more))
    assert rates(tmp_path / "two", *more) == expected == pytest.approx([LARGEST] * 4 + over(2))


@pytest.mark.slow
def test_runs_that_hold_the_rate_branch_off_a_trunk_that_holds_it(tmp_path: Path, capsys: Any) -> None:
    dense, constant = tmp_path / "dense", tmp_path / "constant"
    command_line.main("cartpole", command(dense, "--method", "dense", "--keep", "3"))
    command_line.main("cartpole", command(constant, "--method", "dense", "--schedule", "constant", "--keep", "3"))
    more = ("--method", "earlycrop-s", "--sparsity", "0.5", "--trigger", "3")
    for trunk, schedule, needed in (
        (dense, "after-cut", "--schedule constant"),
        (constant, "keep", "its own schedule"),
    ):
        with pytest.raises(SystemExit):
            command_line.main(
                "cartpole",
                command(tmp_path / "no", *more, "--schedule", schedule, "--branch-from", str(folder(trunk))),
            )
        assert f"branch off a dense run with {needed}" in capsys.readouterr().err
    after_cut = ("--schedule", "after-cut")
    branched = rates(tmp_path / "branched", *more, *after_cut, "--branch-from", str(folder(constant)))
    assert branched == rates(tmp_path / "alone", *more, *after_cut) == pytest.approx([LARGEST] * 3 + over(3))
    assert contents(tmp_path / "branched")["result"]["value"] == contents(tmp_path / "alone")["result"]["value"]


def test_the_schedule_is_torch_s_one_cycle() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=1001)
    for step in range(1000):
        # torch counts its steps from 0 to the last, and its peak is a step before 30 %
        assert 2.0 * one_cycle(step / 1000) == pytest.approx(scheduler.get_last_lr()[0], rel=0.03, abs=1e-3)
        optimizer.step()
        scheduler.step()
