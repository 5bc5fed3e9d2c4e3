"""The command line: presets, help, limits, and what is said to who types the wrong thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from earlycrop.selection import step_time
from tasks import _cli, cartpole
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
            "there is no method 'earlycrop': take one of dense, random-u, random-s, magnitude-u",
        ),
        (["--preset", "best"], "there is no preset 'best': take one of default, paper-table4"),
        (["--of", "flops"], "--of takes weights, nodes, macs, bytes, time"),
        (["--exclude", "trunk.9"], "no layer with a weight matrix matches 'trunk.9'"),
        (["--floors", "actor", "1.5"], "floors['actor'] is 1.5"),
        (["--multiple", "0"], "multiple must be at least 1, and is 0"),
        (["--method", "snip", "--multiple", "8"], "multiple rounds channel counts"),
        (["--method", "snip", "--of", "nodes"], "an unstructured method removes a share of the weights"),
        (["--epochs", "2"], "early pruning needs at least 3 epochs"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--agents", "0"], "agents must be at least 1"),
        (["--clip", "-1"], "clip must be None or a number above 0"),
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
        _cli.main("cartpole", ["--runs", str(runs), *wrong])
    assert left.value.code == 2
    told = capsys.readouterr()
    assert sentence in " ".join((told.err + told.out).replace("│", " ").split())
    assert not runs.exists()


@pytest.mark.parametrize("task", list(TINY_DATA))
def test_an_empty_name_of_data_is_not_the_folder_one_is_in(task: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        _cli.main(task, ["--data", "", "--runs", str(tmp_path / "runs")])
    assert left.value.code == 2
    assert "error: --data is empty: it takes a data set's name, or a folder" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path / "file"))
    assert left.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.filterwarnings(
    "ignore:asked to remove"
)  # a step of 16 neurons is mostly overhead, and may not get shorter
def test_limits_and_a_time_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "SECONDS", 0.05)
    more = ["--method", "earlycrop-s", "--sparsity", "0.05", "--of", "time", "--exclude", "trunk.2"]
    more += ["--floors", "trunk.0", "4", "trunk.*", "0.25", "--ceilings", "trunk.0", "0.5", "--multiple", "4"]
    result = _cli.main("cartpole", command(tmp_path, *more, "--rounds", "2"))
    assert (result.sparsity_of, result.sparsity_asked) == ("time", 0.05)
    log = [json.loads(line) for line in (folder(tmp_path) / "log.jsonl").read_text().splitlines()]
    (event,) = [line["event"] for line in log if line["event"]]
    assert event["of"] == "time"
    assert event["layers"]["trunk.0"] in ([16, 8], [16, 4])
    assert event["layers"]["trunk.2"] == [16, 16]
    assert event["limits"]["floors"] == {"trunk.0": 4, "trunk.*": 0.25}


def test_presets_are_the_starting_point() -> None:
    paper = _cli.parse(cartpole, ["--preset", "paper-table4", "--seed", "4"])
    assert isinstance(paper, cartpole.Options)
    assert (paper.environment, paper.agents, paper.games) == ("CartPole-v0", 16, 16 * 8000)
    assert paper.widths == (128, 128, 128)
    assert (paper.preset, paper.seed) == ("paper-table4", 4)
    assert _cli.parse(cartpole, ["--preset=paper-table4"]) == cartpole.paper_table4()


def test_help_names_methods_presets_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", ["--help"])
    assert left.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("paper-table4", "earlycrop-s", "grasp", "--agents", "--sparsity", "--exclude", "Pruning method"):
        assert word in told
