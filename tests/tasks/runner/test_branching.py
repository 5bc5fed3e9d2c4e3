"""Copies of a dense run that are pruned at an epoch: the same runs as those that train that far themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.control.a2c import A2C
from tasks.runner import command_line
from tests.tasks.runs import command, contents, folder
from tests.tasks.tiny_data import TINY_DATA

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize(
    "method",
    ["earlycrop-s", pytest.param("crop-u", marks=pytest.mark.slow), pytest.param("random-s", marks=pytest.mark.slow)],
)
def test_a_run_that_branches_off_a_dense_one_is_the_run_that_trains_that_far_itself(
    method: str, tmp_path: Path
) -> None:
    dense = command(tmp_path / "dense", "--method", "dense", "--schedule", "constant", "--keep", "2", "4")
    command_line.main("cartpole", dense)
    kept = sorted(p.name for p in (folder(tmp_path / "dense") / "checkpoint").iterdir())
    assert kept == ["epoch-00002", "epoch-00004", "epoch-00006"]
    more = ["--method", method, "--sparsity", "0.7", "--trigger", "4"]
    command_line.main("cartpole", command(tmp_path / "whole", *more))
    branch = ["--branch-from", str(folder(tmp_path / "dense"))]
    command_line.main("cartpole", command(tmp_path / "branched", *more, *branch))
    uninterrupted, branched = contents(tmp_path / "whole"), contents(tmp_path / "branched")
    assert folder(tmp_path / "whole").name == folder(tmp_path / "branched").name
    assert branched["log"][3].pop("branched_from") == Path(branch[1]).name
    for line in (
        *uninterrupted["log"][:4],
        *branched["log"][:4],
    ):  # a distance of masks is of the sparsity that is asked for
        line["trigger"].pop("mask_distance", None)
    assert uninterrupted == branched


OF_TASKS: dict[str, list[str]] = {
    "ptb": ["--embedding", "6", "--widths", "9", "--batch", "4", "--length", "8", "--decay", "1.5", "--dropout", "0"],
    "cifar10": [
        "--network",
        "resnet8-cifar",
        "--batch",
        "8",
        "--scoring",
        "1",
        "--test-epochs",
        "2",
        "3",
        "--schedule",
        "keep",
    ],
}
OF_TASKS["ptb"] += ["--scoring", "2", "--learning-rate", "0.3"]  # so high that epoch 3 does the dense one no good


@pytest.mark.slow
@pytest.mark.parametrize("task", OF_TASKS)
def test_what_a_task_remembers_branches_off_with_it(task: str, tmp_path: Path) -> None:
    """The learning rate that validation has left, and an epoch's test accuracy, which is the pruned network's."""
    TINY_DATA[task](tmp_path / "data")
    common = ["--data", str(tmp_path / "data"), "--epochs", "5", "--rounds", "2", *OF_TASKS[task]]

    def run(where: str, *more: str) -> Path:
        command_line.main(task, [*common, "--runs", str(tmp_path / where), *more])
        return folder(tmp_path / where)

    dense = run("dense", "--method", "dense", "--keep", "3")
    more = ("--method", "crop-s", "--sparsity", "0.5", "--trigger", "3")
    run("whole", *more)
    run("branched", *more, "--branch-from", str(dense))
    uninterrupted, branched = contents(tmp_path / "whole"), contents(tmp_path / "branched")
    del branched["log"][2]["branched_from"]
    for line in (*uninterrupted["log"], *branched["log"]):
        if line["trigger"]:
            line["trigger"].pop("mask_distance", None)
    assert uninterrupted == branched
    if task == "ptb":
        assert contents(tmp_path / "dense")["log"][3]["learning_rate"] == pytest.approx(0.2)
        assert uninterrupted["log"][3]["learning_rate"] == 0.3  # another network, whose best is not known yet
    else:
        assert [line["epoch"] for line in uninterrupted["log"] if "test_accuracy" in line] == [2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trigger", "3"], "has kept no checkpoint of epoch 3: run it with --keep"),
        (["--trigger", "0"], "needs the epoch to branch off at: give it as --trigger, 1 or more"),
        ([], "needs the epoch to branch off at"),
        (["--trigger", "2", "--method", "dense"], "dense cannot branch off"),
        (["--trigger", "2", "--seed", "7"], "is another training (it differs in seed): branch off one alike"),
        (["--trigger", "2", "--branch-from", "nowhere"], "there is no run in nowhere"),
        (["--trigger", "2", "--keep", "1"], "--keep takes epochs from 2 on, where it branches off, not 1"),
        (["--keep", "7"], "--keep takes epochs from 1 to 6, not 7"),
    ],
)
def test_a_run_that_cannot_branch_off_says_why(more: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    command_line.main(
        "cartpole", command(tmp_path / "dense", "--method", "dense", "--schedule", "constant", "--keep", "2")
    )
    branch = ["--branch-from", str(folder(tmp_path / "dense"))]
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path / "other", *branch, *more))
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_is_past_what_it_is_to_keep_says_so(finished: bool, tmp_path: Path, capsys: Any) -> None:
    command_line.main("cartpole", command(tmp_path, "--method", "dense"))
    if not finished:
        (folder(tmp_path) / "result.json").unlink()
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path, "--method", "dense", "--keep", "2", "6"))
    assert left.value.code == 2
    assert "is at epoch 6 and has kept no checkpoint of epoch 2: move it away" in capsys.readouterr().err
    assert (folder(tmp_path) / "result.json").exists() == finished


def test_what_an_earlier_call_was_to_keep_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any, model: Any) -> None:
        raise KeyboardInterrupt

    evaluate = A2C.evaluate
    monkeypatch.setattr(A2C, "evaluate", stop)
    with pytest.raises(SystemExit):
        command_line.main("cartpole", command(tmp_path, "--method", "dense", "--keep", "2"))
    monkeypatch.setattr(A2C, "evaluate", evaluate)
    for each in (folder(tmp_path) / "checkpoint").glob("epoch-0000[3-6]"):
        shutil.rmtree(each)
    command_line.main("cartpole", command(tmp_path, "--method", "dense"))
    assert sorted(p.name for p in (folder(tmp_path) / "checkpoint").iterdir()) == ["epoch-00002", "epoch-00006"]


def test_a_pruned_run_is_no_trunk(tmp_path: Path, capsys: Any) -> None:
    command_line.main("cartpole", command(tmp_path / "pruned", "--method", "snip", "--keep", "2"))
    with pytest.raises(SystemExit):
        command_line.main(
            "cartpole",
            command(tmp_path / "other", "--trigger", "2", "--branch-from", str(folder(tmp_path / "pruned"))),
        )
    assert "holds a run of snip: branch off a dense one" in capsys.readouterr().err
