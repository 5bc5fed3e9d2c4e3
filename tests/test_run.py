"""Runs from the command line: their folders, killed and resumed, and what is said to who types the wrong thing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
import tasks
from earlycrop import METHODS
from earlycrop.selection import step_time
from tasks import _cli, _outcome, _run, _store, cartpole
from tests.runs import command, contents, folder
from tests.tiny_data import SMALLER, TINY_DATA

PRUNED = {"after": 5, "mask_distance": 2, "lazy_regime": 2, "before": 0}
"""The epoch of the pruning by the method's trigger, of a budget of six."""


def test_a_method_that_the_network_is_not_made_for_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path, "--method", "gatedecorators"))
    assert left.value.code == 2
    assert "error: gatedecorators puts its gates on the scales of batch norms" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


TAKEN = ("dense", "earlycrop-s", "crop-u", "ltr", "magnitude-after-s", "earlybird")
"""A method of each procedure, trigger and kind of unit."""


@pytest.mark.parametrize(
    "method",
    [m if m in TAKEN else pytest.param(m, marks=pytest.mark.slow) for m in METHODS if m != "gatedecorators"],
)
def test_every_method_runs_to_a_record(method: str, tmp_path: Path) -> None:
    result = _cli.main("cartpole", command(tmp_path, "--method", method, "--sparsity", "0.6"))
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
    assert result.commit == _outcome.commit()
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
    more = ["--method", method, "--sparsity", "0.7", "--steps", "60000"]
    _cli.main("cartpole", command(tmp_path / "whole", *more))
    line = [sys.executable, "-m", "tasks.cartpole", *command(tmp_path / "killed", *more)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=_root())
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("*/checkpoint/epoch-0000[2345]")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder(tmp_path / "killed") / "result.json").exists(), "it finished before it could be killed"
    _cli.main("cartpole", command(tmp_path / "killed", *more))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def _root() -> Path:
    return Path(tasks.__file__).parent.parent


CUT_OFF = ("--method", "earlycrop-u", "--sparsity", "0.7")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that was not cut off."""
    runs = tmp_path_factory.mktemp("whole")
    _cli.main("cartpole", command(runs, *CUT_OFF))
    return runs


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_an_error_at_any_epoch_loses_nothing(
    after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = _run.train

    def interrupted(task: Any, model: Any, optimizer: Any, epoch: int, rate: Any, to: Any) -> float:
        if epoch == after + 1:
            raise KeyboardInterrupt
        return train(task, model, optimizer, epoch, rate, to)

    monkeypatch.setattr(_run, "train", interrupted)
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path / "cut", *CUT_OFF))
    assert left.value.code == 130
    monkeypatch.setattr(_run, "train", train)
    assert [p.name for p in (folder(tmp_path / "cut") / "checkpoint").iterdir()] == [f"epoch-{after:05d}"]
    _cli.main("cartpole", command(tmp_path / "cut", *CUT_OFF))
    assert contents(whole) == contents(tmp_path / "cut")


def test_control_c_leaves_a_checkpoint_and_a_sentence(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tasks.cartpole", *command(tmp_path, "--steps", "3000000")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_root())
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/checkpoint/epoch-00000")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from the last checkpoint" in told
    assert "Traceback" not in told


def test_a_finished_run_returns_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _cli.main("cartpole", command(tmp_path))
    said = capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in folder(tmp_path).rglob("*") if p.is_file() and p.name != ".lock"}
    assert _cli.main("cartpole", command(tmp_path)) == first
    assert capsys.readouterr().out == said
    assert before == {p: p.stat().st_mtime_ns for p in before}


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


def interrupted_run(runs: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    """A run that was stopped after three epochs; its checkpoint."""
    train = _run.train

    def stop(task: Any, model: Any, optimizer: Any, epoch: int, rate: Any, to: Any) -> float:
        if epoch == 4:
            raise KeyboardInterrupt
        return train(task, model, optimizer, epoch, rate, to)

    with monkeypatch.context() as patch:
        patch.setattr(_run, "train", stop)
        with pytest.raises(SystemExit):
            _cli.main("cartpole", command(runs, *more))
    (checkpoint,) = (folder(runs) / "checkpoint").iterdir()
    return checkpoint


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_broken_checkpoint_is_named_and_left(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = interrupted_run(tmp_path, monkeypatch) / name
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"noise" * 100)
    before = file.read_bytes() if file.exists() else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path))
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert str(file) in told.replace("\n", "")
    assert "to start the run anew" in told
    assert (file.read_bytes() if file.exists() else None) == before


def test_a_checkpoint_of_another_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    other = interrupted_run(tmp_path / "other", monkeypatch, "--seed", "5")
    mine = interrupted_run(tmp_path / "mine", monkeypatch)
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path / "mine"))
    assert left.value.code == 2
    assert "belongs to another configuration (it differs in seed)" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    loss = cartpole.A2C.training_loss
    seen = []

    def diverging(self: Any, model: Any, batch: Any) -> torch.Tensor:
        seen.append(1)
        value = loss(self, model, batch)
        return value * float("nan") if len(seen) == 30 else value

    monkeypatch.setattr(cartpole.A2C, "training_loss", diverging)
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path))
    assert left.value.code == 1
    failure = json.loads((folder(tmp_path) / "failure.json").read_text())
    told = capsys.readouterr().err
    assert f"the loss is nan in epoch {failure['epoch']}, step {failure['step']}" in told
    (checkpoint,) = (folder(tmp_path) / "checkpoint").iterdir()
    assert checkpoint.name == f"epoch-{failure['epoch'] - 1:05d}"
    per_epoch = [json.loads(line)["epoch"] for line in (folder(tmp_path) / "log.jsonl").read_text().splitlines()]
    assert per_epoch == list(range(1, failure["epoch"]))
    seen += [1] * 100
    _cli.main("cartpole", command(tmp_path))  # mended, it goes on from there
    assert not (folder(tmp_path) / "failure.json").exists()


@pytest.mark.parametrize(
    ("method", "epoch"), [("evaluate", 6), ("validate", 3), pytest.param("validate", 1, id="validate the first")]
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
            _cli.main("cartpole", command(tmp_path, "--method", "dense"))
    assert left.value.code == 1
    told = capsys.readouterr().err
    assert (
        f"error: the return is inf after epoch {epoch}: training has diverged. The last checkpoint is kept; a" in told
    )
    run = folder(tmp_path)
    assert json.loads((run / "failure.json").read_text()) == {"epoch": epoch, "return": "inf"}
    assert "Infinity" not in (run / "log.jsonl").read_text()
    (kept,) = (run / "checkpoint").iterdir()
    assert kept.name == f"epoch-{epoch if method == 'evaluate' else epoch - 1:05d}"
    _cli.main("cartpole", command(tmp_path, "--method", "dense"))  # mended, it goes on from there
    assert not (run / "failure.json").exists()


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cartpole.A2C, "trained_on", lambda self: {"games": 3, "digest": "abc"})
    checkpoint = interrupted_run(tmp_path, monkeypatch)
    before = {p: p.read_bytes() for p in checkpoint.iterdir()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(cartpole.A2C, "trained_on", lambda self: {"games": 4, "digest": "abc"})
        with pytest.raises(SystemExit) as left:
            _cli.main("cartpole", command(tmp_path))
    assert left.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"the data are not those of {checkpoint} any more (games was 3 and is 4): give the old ones, or" in told
    assert "or give another folder with --runs" in told
    assert before == {p: p.read_bytes() for p in checkpoint.iterdir()}
    _cli.main("cartpole", command(tmp_path))  # with the old ones it goes on


@pytest.mark.parametrize("name", list(TINY_DATA))
def test_the_same_data_are_known_again(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tasks.{name}")
    given = {"data": str(tmp_path), **(TINY_DATA[name](tmp_path) or {}), **SMALLER.get(name, {})}
    first, again, other = (module.make(module.Options(**{**given, **more})) for more in ({}, {}, OTHER[name]))
    assert json.loads(json.dumps(first.trained_on())) == again.trained_on()
    assert first.trained_on() != other.trained_on()


OTHER: dict[str, dict[str, Any]] = {
    **{name: {"validation": 0.3} for name in TINY_DATA if name != "ptb"}, "ptb": {"vocabulary": 5},
}  # fmt: skip
"""Options with which a task trains on other data of the same place."""


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_data_are_read_is_no_traceback(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if begun:
        interrupted_run(tmp_path, monkeypatch)
    capsys.readouterr()

    def pressed(options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cartpole, "make", pressed)
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path))
    assert left.value.code == 130
    told = capsys.readouterr().err.strip()
    where = f"goes on from the last checkpoint in {folder(tmp_path)}" if begun else "starts anew"
    assert told.startswith("stopped: ")
    assert told.endswith(f"the same command {where}")


@pytest.mark.parametrize(("method", "epoch"), [("snap", 0), ("earlycrop-u", 2)])
def test_a_pruning_that_fails_is_a_sentence(
    method: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cartpole.A2C, "loss", lambda self, model, batch: model(batch.observations)[0].mean() / 0)
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", command(tmp_path, "--method", method))
    assert left.value.code == 2
    assert f"pruning after epoch {epoch} failed: the loss is" in capsys.readouterr().err


def test_two_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    options = cartpole.Options(runs=tmp_path)
    store = _store.Store(tmp_path, _store.configuration("cartpole", options))
    line = [sys.executable, "-m", "tasks.cartpole", "--runs", str(tmp_path)]
    other = subprocess.run(line, capture_output=True, text=True, cwd=_root())
    store.close()
    assert other.returncode == 2
    assert "another process is at work" in other.stderr


def test_the_id_is_the_configuration(tmp_path: Path) -> None:
    def id_of(**options: Any) -> str:
        store = _store.Store(tmp_path, _store.configuration("cartpole", cartpole.Options(**options)))
        store.close()
        return store.id

    assert id_of() == id_of(runs=Path("elsewhere"))
    assert len({id_of(), id_of(seed=1), id_of(sparsity=0.5), id_of(agents=8)}) == 4


def test_options_that_came_later_leave_the_ids_of_earlier_runs(tmp_path: Path) -> None:
    """The committed records' ids are still those of their configurations."""
    files = sorted((_root() / "leaderboards" / "records" / "cartpole").glob("*.json"))
    for file in files:
        config = json.loads(file.read_text())["config"]
        held = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name != "task"}
        made = _store.configuration("cartpole", cartpole.Options(**held))
        assert made == config
        store = _store.Store(tmp_path, made)
        store.close()
        assert store.id == file.stem
    assert files
    limited = cartpole.Options(exclude=("actor",), floors={"trunk.*": 0.1}, multiple=8)
    told = _store.configuration("cartpole", limited)
    assert {name: told.get(name) for name in ("exclude", "floors", "ceilings", "multiple")} == {
        "exclude": ["actor"], "floors": {"trunk.*": 0.1}, "ceilings": None, "multiple": 8,
    }  # fmt: skip


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
    assert (paper.environment, paper.agents, paper.games, paper.widths) == ("CartPole-v0", 16, 8000, (128, 128, 128))
    assert (paper.preset, paper.seed) == ("paper-table4", 4)
    assert _cli.parse(cartpole, ["--preset=paper-table4"]) == cartpole.paper_table4()


def test_help_names_methods_presets_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        _cli.main("cartpole", ["--help"])
    assert left.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("paper-table4", "earlycrop-s", "grasp", "--agents", "--sparsity", "--exclude", "Pruning method"):
        assert word in told


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_keeps_the_contract(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tasks.{name}")
    assert "default" in module.PRESETS
    for preset, make in module.PRESETS.items():
        options = make()
        assert options.preset == preset
        assert _store.configuration(name, options)["task"] == name
        if name in TINY_DATA:
            options = replace(options, data=str(tmp_path), **(TINY_DATA[name](tmp_path) or {}))
        module.make(options)
        task = module.make(replace(options, **SMALLER.get(name, {})))
        model = task.model()
        assert task.optimizer(model).param_groups[0]["lr"] > 0
        batch = next(iter(task.batches(model, 1)))
        losses = []
        for loss in (task.loss, task.training_loss):
            torch.manual_seed(0)  # of dropout
            losses.append(loss(model, batch).detach())
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
        state = json.loads(json.dumps(task.state_dict()))
        task.load_state_dict(state)
        assert task.state_dict() == state
        scored = next(iter(task.scoring_batches(model, 1)))
        earlycrop.flow(model, task.loss, [scored])


def test_torchvision_can_be_imported_and_cut() -> None:
    """In a process of its own: nothing may have declared the operators before."""
    code = (
        "import torch, earlycrop\nfrom tasks._torchvision import load\n"
        "model = load('torchvision.models').resnet18()\n"
        "graph = earlycrop.trace(model, torch.zeros(1, 3, 64, 64))\n"
        "cut = earlycrop.shrink(model, graph, range(0, graph.count, 3))\n"
        "print(graph.count, cut.nodes, cut.difference < 1e-5)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_root())
    assert told.stdout.split() == ["2880", "960", "True"], told.stderr


def test_the_core_imports_no_task_library() -> None:
    code = "import sys, earlycrop; print([m for m in ('torchvision', 'gymnasium', 'rich', 'tyro') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_root(), env=os.environ)
    assert told.stdout.strip() == "[]"
