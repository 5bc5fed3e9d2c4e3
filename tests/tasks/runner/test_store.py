"""Runs' folders: ids, checkpoints that are broken or another's, and what a method ignores."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import cartpole
from tasks.runner import command_line, outcome, training_loop
from tasks.runner.options import LATER
from tasks.runner.store import Store, configuration, identity
from tests.tasks.runs import command, contents, folder, root

pytestmark = pytest.mark.usefixtures("without_type_checks")


def interrupted_run(runs: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    """A run that was stopped after three epochs; its checkpoint."""
    train = training_loop.train

    def stop(task: Any, model: Any, optimizer: Any, epoch: int, rate: Any, to: Any) -> float:
        if epoch == 4:
            raise KeyboardInterrupt
        return train(task, model, optimizer, epoch, rate, to)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "train", stop)
        with pytest.raises(SystemExit):
            command_line.main("cartpole", command(runs, *more))
    (checkpoint,) = (folder(runs) / "checkpoint").iterdir()
    return checkpoint


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that was stopped after three epochs; tests take a copy."""
    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        interrupted_run(runs, patch)
    return runs


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_broken_checkpoint_is_named_and_left(
    name: str, damage: str, stopped: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = (folder(tmp_path) / "checkpoint").iterdir()
    file = checkpoint / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"noise" * 100)
    before = file.read_bytes() if file.exists() else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path))
    assert left.value.code == 2
    output = capsys.readouterr().err
    assert str(file) in output.replace("\n", "")
    assert "to start the run anew" in output
    assert (file.read_bytes() if file.exists() else None) == before


def test_a_checkpoint_of_another_configuration(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    other = interrupted_run(tmp_path / "other", monkeypatch, "--seed", "5")
    shutil.copytree(stopped, tmp_path / "mine")
    (replaced,) = (folder(tmp_path / "mine") / "checkpoint").iterdir()
    shutil.rmtree(replaced)
    shutil.copytree(other, replaced)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path / "mine"))
    assert left.value.code == 2
    assert "belongs to another configuration (it differs in seed)" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cartpole.A2C, "trained_on", lambda self: {"games": 3, "digest": "abc"})
    checkpoint = interrupted_run(tmp_path, monkeypatch)
    before = {p: p.read_bytes() for p in checkpoint.iterdir()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(cartpole.A2C, "trained_on", lambda self: {"games": 4, "digest": "abc"})
        with pytest.raises(SystemExit) as left:
            command_line.main("cartpole", command(tmp_path))
    assert left.value.code == 2
    output = " ".join(capsys.readouterr().err.split())
    assert f"the data are not those of {checkpoint} any more (games was 3 and is 4): give the old ones, or" in output
    assert "or give another folder with --runs" in output
    assert before == {p: p.read_bytes() for p in checkpoint.iterdir()}
    command_line.main("cartpole", command(tmp_path))  # with the old ones it goes on


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_data_are_read_is_no_traceback(
    begun: bool, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if begun:
        shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()

    def pressed(options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cartpole, "make", pressed)
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(tmp_path))
    assert left.value.code == 130
    output = capsys.readouterr().err.strip()
    where = f"goes on from the last checkpoint in {folder(tmp_path)}" if begun else "starts anew"
    assert output.startswith("stopped: ")
    assert output.endswith(f"the same command {where}")


def test_two_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    options = cartpole.Options(runs=tmp_path)
    store = Store(tmp_path, configuration("cartpole", options))
    line = [sys.executable, "-m", "tasks.cartpole", "--runs", str(tmp_path)]
    other = subprocess.run(line, capture_output=True, text=True, cwd=root())
    store.close()
    assert other.returncode == 2
    assert "another process is at work" in other.stderr


def test_the_id_is_the_configuration(tmp_path: Path) -> None:
    def id_of(**options: Any) -> str:
        store = Store(tmp_path, configuration("cartpole", cartpole.Options(**options)))
        store.close()
        return store.id

    assert id_of() == id_of(runs=Path("elsewhere"))
    assert len({id_of(), id_of(seed=1), id_of(sparsity=0.5), id_of(agents=8)}) == 4


@pytest.mark.parametrize("name", ["cifar10", "glue", "nyu", "ptb"])
def test_options_that_came_later_leave_the_ids_of_earlier_runs(name: str) -> None:
    """The committed records' ids are still those of their configurations, by the rule that they were made under."""
    module = importlib.import_module(f"tasks.{name}")
    files = sorted((root() / "leaderboards" / "records" / name).glob("*.json"))
    for file in files:
        record = json.loads(file.read_text())
        config, version = record["config"], record.get("version", 1)
        given = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name != "task"}
        known = {field.name for field in dataclasses.fields(module.Options)}
        given = {option: value for option, value in LATER.items() if option in known} | given
        made = configuration(name, module.Options(**given), version)
        assert made == config
        assert identity(made, version) == file.stem
    assert files


def test_options_that_came_later_are_in_a_configuration_where_they_are_given() -> None:
    limited = cartpole.Options(exclude=("actor",), floors={"trunk.*": 0.1}, multiple=8)
    config = configuration("cartpole", limited)
    assert {name: config.get(name) for name in ("exclude", "floors", "ceilings", "multiple")} == {
        "exclude": ["actor"], "floors": {"trunk.*": 0.1}, "ceilings": None, "multiple": 8,
    }  # fmt: skip


OTHERS: dict[str, Any] = {
    "sparsity": 0.5, "of": "macs", "exclude": ("actor",), "floors": {"trunk.*": 2}, "ceilings": {"trunk.*": 9},
    "multiple": 2, "rounds": 3, "trigger": "2", "shuffled": True, "criterion": "snip", "gate": "rows",
    "statistics": "batch", "rewind": 0.5, "optimizer_state": "reset", "schedule": "restart", "prune_on": "cpu",
    "as_authors": True, "early_batches": 0.5,
}  # fmt: skip
"""Another value of every option that says how to prune."""


@pytest.mark.parametrize(
    ("method", "ignored"),
    [
        ("dense", set(OTHERS)),
        ("crop-s", {"rounds", "rewind", "early_batches"}),
        ("earlycrop-s", {"rewind"}),
        ("earlycrop-u", {"rewind", "of", "multiple", "gate"}),
        ("synflow", {"rounds", "rewind", "of", "multiple", "gate", "early_batches"}),
        ("ltr", {"rounds", "of", "multiple", "gate", "statistics", "schedule", "as_authors", "early_batches"}),
        ("gatedecorators", {"rewind", "gate", "statistics", "as_authors", "early_batches"}),
        ("random-s", {"rounds", "rewind", "gate", "statistics", "as_authors", "early_batches"}),
    ],
)
def test_what_a_method_ignores_is_no_part_of_its_runs(method: str, ignored: set[str]) -> None:
    plain = configuration("cartpole", cartpole.Options(method=method))
    for name, value in OTHERS.items():
        config = configuration("cartpole", cartpole.Options(method=method, **{name: value}))
        assert (config == plain) == (name in ignored), name
        assert (identity(config) == identity(plain)) == (name in ignored), name
        assert (name in config) != (name in ignored), name
    changed = cartpole.Options(method=method, **{name: OTHERS[name] for name in ignored})
    assert outcome.variant(changed) == outcome.variant(cartpole.Options(method=method))


def test_a_dense_run_is_one_whatever_is_said_of_a_pruning(tmp_path: Path) -> None:
    first = command_line.main("cartpole", command(tmp_path / "first", "--method", "dense"))
    more = ("--sparsity", "0.5", "--of", "macs", "--rounds", "2", "--trigger", "2", "--criterion", "snip")
    other = command_line.main("cartpole", command(tmp_path / "other", "--method", "dense", *more))
    assert first.run == other.run
    assert contents(tmp_path / "first") == contents(tmp_path / "other")
    config = json.loads((folder(tmp_path / "other") / "config.json").read_text())
    assert config.keys().isdisjoint(OTHERS)
