"""The command line: presets, help, limits, and what is said to who types the wrong thing."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tasks
from earlycrop.selection import step_time
from tasks import Task, _template, cartpole
from tasks.__main__ import main as list_or_run
from tasks.runner import arguments, command_line
from tests.tasks.runs import command, folder
from tests.tasks.tiny_data import TINY_DATA


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--sparsity", "1"], "--sparsity must be above 0 and below 1, and is 1"),
        (["--sparsity", "-0.5"], "--sparsity must be above 0 and below 1"),
        (["--sparsity", "nan"], "--sparsity must be above 0 and below 1"),
        (
            ["--method", "earlycrop"],
            "there is no method 'earlycrop', did you mean 'earlycrop-u'? Take one of dense",
        ),
        (["--method=snapp"], "there is no method 'snapp', did you mean 'snap'?"),
        (["--preset", "best"], "there is no preset 'best': take one of default, paper-table4"),
        (
            ["--of", "flops"],
            "invalid choice 'flops' for argument '--of'. Expected one of ('weights', 'nodes', 'macs', 'bytes', 'time')",
        ),
        (["--exclude", "trunk.9"], "no layer with a weight matrix matches 'trunk.9'"),
        (["--floors", "actor", "1.5"], "floors['actor'] is 1.5"),
        (["--multiple", "0"], "multiple must be at least 1, and is 0"),
        (["--method", "snip", "--multiple", "8"], "multiple rounds channel counts"),
        (["--method", "snip", "--of", "nodes"], "an unstructured method removes a share of the weights"),
        (["--epochs", "2"], "early pruning needs at least 3 epochs"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--agents", "0"], "agents must be 1 or more, not 0"),
        (["--clip", "-1"], "clip must be above 0, not -1.0"),
        (["--device", "gpu"], "there is no device 'gpu' here"),
        (["--dropout", "0.1"], "dropout"),
        (["--environment", "Pong"], "Pong"),
        (["--widths"], "widths"),
        (["--method", "dense", "--exclude", "trunk.9"], "no layer with a weight matrix matches 'trunk.9'"),
        (["--method", "dense", "--floors", "trnk.0", "4"], "no layer with a weight matrix matches 'trnk.0'"),
        (["--method", "dense", "--ceilings", "*.qery", "0.5"], "no layer with a weight matrix matches '*.qery'"),
        (["--seed", str(2**70)], f"--seed must be below 2**64, and is {2**70}"),
    ],
)
def test_the_wrong_thing_typed(wrong: list[str], sentence: str, tmp_path: Path, capsys: Any) -> None:
    """A sentence, exit code 2, and nothing written."""
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", ["--runs", str(runs), *wrong])
    assert left.value.code == 2
    output = capsys.readouterr()
    assert sentence in " ".join((output.err + output.out).replace("│", " ").split())
    assert not runs.exists()


@pytest.mark.parametrize("task", list(TINY_DATA))
def test_an_empty_name_of_data_is_not_the_folder_one_is_in(task: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main(task, ["--data", "", "--runs", str(tmp_path / "runs")])
    assert left.value.code == 2
    assert "error: --data is empty: it takes a data set's name, or a folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--device", "--prune-on"])
@pytest.mark.parametrize("task", list(TINY_DATA))
def test_a_device_that_is_not_there(task: str, option: str, tmp_path: Path, capsys: Any) -> None:
    """A task is not made on it, which may read all its data, and asks how much memory there is."""
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit) as left:
        command_line.main(task, ["--method", "crop-s", option, "cuda:99", "--data", str(tmp_path), "--runs", str(runs)])
    assert left.value.code == 2
    assert "error: there is no device 'cuda:99' here" in capsys.readouterr().err
    assert not runs.exists()


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path / "file"))
    assert left.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.filterwarnings(
    "ignore:asked to remove"
)  # a step of 16 neurons is mostly overhead, and may not get shorter
def test_limits_and_a_time_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "SECONDS", 0.05)
    more = ["--method", "earlycrop-s", "--sparsity", "0.05", "--of", "time", "--exclude", "trunk.2"]
    more += ["--floors", "trunk.0", "4", "trunk.*", "0.25", "--ceilings", "trunk.0", "0.5", "--multiple", "4"]
    result = command_line.main("cartpole", command(tmp_path, *more, "--rounds", "2"))
    assert (result.sparsity_of, result.sparsity_asked) == ("time", 0.05)
    log = [json.loads(line) for line in (folder(tmp_path) / "log.jsonl").read_text().splitlines()]
    (event,) = [line["event"] for line in log if line["event"]]
    assert event["of"] == "time"
    assert event["layers"]["trunk.0"] in ([16, 8], [16, 4])
    assert event["layers"]["trunk.2"] == [16, 16]
    assert event["limits"]["floors"] == {"trunk.0": 4, "trunk.*": 0.25}


def test_presets_are_the_starting_point() -> None:
    paper = arguments.parse(cartpole, ["--preset", "paper-table4", "--seed", "4"])
    assert isinstance(paper, cartpole.Options)
    assert (paper.environment, paper.agents, paper.games) == ("CartPole-v0", 16, 16 * 8000)
    assert paper.widths == (128, 128, 128)
    assert (paper.preset, paper.seed) == ("paper-table4", 4)
    options = replace(cartpole.paper_table4(), preset="paper-table4")
    assert arguments.parse(cartpole, ["--preset=paper-table4"]) == options


def test_help_names_methods_presets_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", ["--help"])
    assert left.value.code == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for group in ("task options", "pruning options", "training options", "run options"):
        assert group in output
    assert "earlycrop-s: remove nodes by crop in rounds, when training becomes lazy" in output
    assert "--gate {auto,rows,norms,columns}" in output
    for word in ("paper-table4", "earlycrop-s", "grasp", "--agents", "--sparsity", "--exclude", "Pruning method"):
        assert word in output


def test_every_option_has_a_group_a_type_and_a_help_text() -> None:
    for name in tasks.names():
        module = importlib.import_module(f"tasks.{name}")
        assert arguments.parse(module, []) == module.PRESETS["default"]()


def test_a_run_says_what_it_does_and_what_it_has_won(tmp_path: Path, capsys: Any) -> None:
    runs = ["--runs", str(tmp_path), "--epochs", "6"]
    command_line.main("_template", ["--method", "dense", *runs])
    output = capsys.readouterr().out
    assert "data     scikit-learn wine\nnetwork  mlp-64-64: 5,251 parameters\npruning  no pruning\n" in output
    assert "training 6 epochs, seed 0, on " in output
    (dense,) = (json.loads((run / "result.json").read_text()) for run in tmp_path.iterdir())
    more = ["--method", "crop-s", "--sparsity", "0.5", *runs]
    result = command_line.main("_template", more)
    output = capsys.readouterr().out
    assert "pruning  crop-s, 50.00% of the weights to be removed, as whole nodes\n" in output
    assert (
        f"\n{result.weight_sparsity:.2%} of the weights and {result.node_sparsity:.2%} of the nodes removed before "
        f"training\n{result.parameters:,} parameters are left\n"
    ) in output
    assert (
        f"crop-s: accuracy {result.value:.4g} on test (dense run of the same options: {dense['value']:.4g})" in output
    )
    assert f"MACs {result.dense_macs:,} -> {result.macs:,}" in output
    assert f"the files are in {tmp_path / result.run}" in output
    command_line.main("_template", more)
    output = capsys.readouterr().out
    assert f"from {tmp_path / result.run}; --fresh runs it again" in output
    assert "the code has changed" not in output
    changed = {**json.loads((tmp_path / result.run / "result.json").read_text()), "commit": "0123456"}
    (tmp_path / result.run / "result.json").write_text(json.dumps(changed))
    command_line.main("_template", more)
    assert "warning: the code has changed since, from 0123456 to " in capsys.readouterr().out


def test_why_a_trigger_prunes_is_said_for_beginners(tmp_path: Path, capsys: Any) -> None:
    more = ["--method", "earlycrop-s", "--sparsity", "0.9", "--epochs", "8", "--runs", str(tmp_path)]
    result = command_line.main("_template", more)
    shown = " ".join(capsys.readouterr().out.split())
    meaning = next(m for start, m in command_line.REASONS.items() if str(result.pruned_why).startswith(start))
    assert f"removed after epoch {result.pruned_epoch}: {meaning} ({result.pruned_why})" in shown


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("pruning", ["dense", "crop-s", "earlycrop-s"])
@pytest.mark.parametrize(
    ("name", "method", "sentences"),
    [
        (
            "loss",
            lambda self, model, batch: model(batch[0])[:, 0],
            ("must be a tensor of one number", "must be a scalar tensor"),
        ),
        (
            "loss",
            lambda self, model, batch: 1.0,
            ("must be a tensor of one number", "uses no parameter: let it run the model"),
        ),
        (
            "scoring_batches",
            lambda self, model, epoch: None,
            ("the task's scoring_batches returned no batches: return a few",),
        ),
        (
            "scoring_batches",
            lambda self, model, epoch: [],
            ("the task's scoring_batches returned no batches: return a few",),
        ),
        ("evaluate", lambda self, model: None, ("the task's evaluate returned None: return a number",)),
    ],
)
def test_what_a_task_returns_and_must_not_is_a_sentence(
    name: str, method: Any, sentences: tuple[str, ...], pruning: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(_template.Wine, name, method)
    with pytest.raises(SystemExit) as left:
        command_line.main("_template", ["--method", pruning, "--epochs", "4", "--runs", str(tmp_path)])
    assert left.value.code == 2
    error = " ".join(capsys.readouterr().err.split()).partition("error: ")[2]
    assert any(sentence in error for sentence in sentences)
    assert "Traceback" not in error


def test_fresh_runs_again_and_keeps_the_old_folder(tmp_path: Path) -> None:
    more = ["--method", "dense", "--runs", str(tmp_path), "--epochs", "3"]
    first = command_line.main("_template", more)
    again = [command_line.main("_template", [*more, "--fresh"]) for _ in range(2)]
    assert {result.run for result in again} == {first.run}
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.run, f"{first.run}.old1", f"{first.run}.old2"]
    assert (tmp_path / f"{first.run}.old1" / "result.json").exists()


def test_a_task_that_lacks_a_method_or_a_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Half(Task):
        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

    monkeypatch.delattr(_template.Wine, "network")
    for make, sentence in (
        (
            lambda options: Half(),
            "the task Half has no batches, evaluate, learning_rate, loss, optimizer, scoring_batches",
        ),
        (_template.Wine, "the task _template has no network: tasks.Task says what each is"),
    ):
        monkeypatch.setattr(_template, "make", make)
        with pytest.raises(SystemExit) as left:
            command_line.main("_template", ["--runs", str(tmp_path)])
        assert left.value.code == 2
        assert f"error: {sentence}" in capsys.readouterr().err


def test_what_a_module_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Undocumented(_template.Options):
        """Options."""

        momentum: float = 0.9

    for attribute, value, sentence in (
        ("SUMMARY", None, "tasks._template has no SUMMARY: see tasks/_template.py"),
        ("make", lambda options: None, "make of tasks._template returned a NoneType, and must return a tasks.Task"),
        ("PRESETS", {"default": Undocumented}, "the option momentum has no docstring, which is its help"),
    ):
        with monkeypatch.context() as patch:
            if value is None:
                patch.delattr(_template, attribute)
            else:
                patch.setattr(_template, attribute, value)
            with pytest.raises(SystemExit) as left:
                command_line.main("_template", ["--runs", str(tmp_path)])
        assert left.value.code == 2
        assert f"error: {sentence}" in capsys.readouterr().err


def test_the_list_of_tasks(capsys: Any) -> None:
    list_or_run([])
    output = capsys.readouterr().out
    for name in tasks.names():
        assert f"\n{name} " in output
    with pytest.raises(SystemExit) as left:
        list_or_run(["digts", "--method", "dense"])
    assert left.value.code == 2
    assert "error: there is no task 'digts', did you mean 'digits'?" in capsys.readouterr().err
