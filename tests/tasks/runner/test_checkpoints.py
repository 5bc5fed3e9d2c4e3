"""Checkpoints whose parts are not of one run, what lies beside them, and folders that cannot be written."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
from tasks.runner import command_line
from tests.tasks.runner.test_store import interrupted_run
from tests.tasks.runs import command, contents, folder

pytestmark = pytest.mark.usefixtures("without_type_checks")
State = dict[str, Any]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that was stopped after three epochs; tests take a copy."""
    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        interrupted_run(runs, patch)
    return runs


def refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Start the run of a folder; return the one sentence that it ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", command(runs))
    assert left.value.code == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert "error: " in sentence
    assert "Traceback" not in sentence
    assert not (folder(runs) / "result.json").exists()
    return sentence


def later(state: State) -> None:
    """As a checkpoint of a longer run."""
    lines = [{**state["log"][-1], "epoch": epoch} for epoch in range(4, 10)]
    state["epoch"], state["pruner"]["epoch"], state["log"] = 9, 9, [*state["log"], *lines]


FAULTS: dict[str, tuple[Callable[[State], object], str]] = {
    "a later epoch": (lambda s: s.update(epoch=5), "is of another checkpoint (its epoch is 5)"),
    "a pruner's epoch": (lambda s: s["pruner"].update(epoch=1), "of another checkpoint (its pruner is at epoch 1)"),
    "a line of the log": (lambda s: s["log"].pop(), "of another checkpoint (its log has the epochs"),
    "another log": (lambda s: s["log"][0].update(loss=9.0), "checkpoint (its log is not that of the run)"),
    "a log of words": (lambda s: s.update(log=["a", "b", "c"]), "of another checkpoint (its log has the epochs [None,"),
    "no pruner": (lambda s: s.pop("pruner"), "has no sound entry 'pruner'"),
    "an epoch of a word": (lambda s: s.update(epoch="three"), "has no sound entry 'epoch'"),
    "no optimizer's groups": (lambda s: s["optimizer"].pop("param_groups"), "the checkpoint's state is of another run"),
    "random numbers": (lambda s: s.update(rng=torch.zeros(3)), "the checkpoint's state is of another run (TypeError"),
    "a task's counts": (lambda s: s.update(task={}), "the checkpoint's state is of another run (KeyError: 'games')"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_state_of_another_checkpoint_is_refused(
    name: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = FAULTS[name]
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (file,) = folder(tmp_path).glob("checkpoint/*/state.safetensors")
    state = earlycrop.load_state(file)
    change(state)
    earlycrop.save_state(state, file)
    assert message in refused(tmp_path, capsys)


def test_an_epoch_beyond_the_run_is_no_finished_run(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = (folder(tmp_path) / "checkpoint").iterdir()
    state = earlycrop.load_state(checkpoint / "state.safetensors")
    later(state)
    earlycrop.save_state(state, checkpoint / "state.safetensors")
    checkpoint.rename(checkpoint.with_name("epoch-00009"))
    assert "epoch-00009 is of epoch 9, and the run has 6: move it away" in refused(tmp_path, capsys)


def test_a_model_of_another_checkpoint_is_refused(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one that is smaller by a cut of a later epoch: the log tells how many parameters there were."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = (folder(tmp_path) / "checkpoint").iterdir()
    state = earlycrop.load_state(checkpoint / "state.safetensors")
    (folder(tmp_path) / "log.jsonl").unlink()
    state["log"][-1]["parameters"] += 1
    earlycrop.save_state(state, checkpoint / "state.safetensors")
    assert "parameters, and its model has" in refused(tmp_path, capsys)


def test_what_else_lies_beside_checkpoints_is_left_and_does_not_matter(stopped: Path, tmp_path: Path) -> None:
    strays = [".DS_Store", ".nfs000", "epoch-00007", "epoch-00001 (copy)/state.safetensors", "epoch-1x/a", "notes/a"]
    for place in ("with", "without"):
        shutil.copytree(stopped, tmp_path / place)
    run = folder(tmp_path / "with")
    leftovers = [run / ".config.json.1.2.tmp", run / "checkpoint" / ".epoch-00004.123" / "model.safetensors"]
    for file in [*(run / "checkpoint" / stray for stray in strays), *leftovers]:
        file.parent.mkdir(exist_ok=True)
        file.write_text("stray")
    for place in ("with", "without"):
        command_line.main("cartpole", command(tmp_path / place))
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert all((run / "checkpoint" / stray).read_text() == "stray" for stray in strays)
    assert not any(file.exists() for file in leftovers)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[1]", "not an object"), (b"\xff\xfe", "not even text"), (b"[" * 99999, "not JSON"), (b"{", "not JSON")],
)
def test_a_configuration_that_is_none_is_a_sentence(
    content: bytes, message: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (folder(tmp_path) / "config.json").write_bytes(content)
    assert message in refused(tmp_path, capsys)
    (folder(tmp_path) / "config.json").unlink()
    os.mkfifo(folder(tmp_path) / "config.json")
    assert "config.json: no file" in refused(tmp_path, capsys)


def _run_with_little_room(runs: Path, size: int, sender: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command_line.main("cartpole", command(runs))
    except SystemExit as left:
        sender.send((left.code, " ".join(said.getvalue().split())))


@pytest.mark.parametrize("size", [6000, 1500])
def test_a_disk_that_is_full_is_a_sentence_and_nothing_is_lost(size: int, stopped: Path, tmp_path: Path) -> None:
    """Files may not be larger than the model, or than the log, as on a disk without room for them."""
    for place in ("full/runs", "ample"):
        shutil.copytree(stopped, tmp_path / place)
    before = {p.name: p.read_bytes() for p in folder(tmp_path / "full/runs").rglob("*") if p.is_file()}
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process
    child = process(target=_run_with_little_room, args=(tmp_path / "full/runs", size, sender))
    child.start()
    child.join(60)
    assert receiver.poll()
    code, said = receiver.recv()
    assert code == 2
    assert "cannot be written (" in said
    assert "make room there, and the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    after = {p.name: p.read_bytes() for p in folder(tmp_path / "full/runs").rglob("*") if p.is_file()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != "log.jsonl")
    log = [json.loads(line) for line in after["log.jsonl"].splitlines()]
    assert len(log) >= 3
    for place in ("full/runs", "ample"):
        command_line.main("cartpole", command(tmp_path / place))
    assert contents(tmp_path / "full/runs") == contents(tmp_path / "ample")
