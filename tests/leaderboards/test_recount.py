"""Records against the models that they tell of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
from leaderboards.recount import Recount, made, options_of
from tasks import cartpole, ptb
from tasks.runner import command_line
from tasks.runner.arguments import parse
from tasks.runner.store import configuration
from tests.leaderboards.commands import call
from tests.tasks.runs import TINY
from tests.tasks.tiny_data import text


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each kind, with their records."""
    place = tmp_path_factory.mktemp("recount")
    runs = ["--runs", str(place / "runs")]
    for method in ("dense", "earlycrop-s", "snip"):
        command_line.main("cartpole", [*TINY, *runs, "--method", method, "--sparsity", "0.6"])
    text(place / "text")
    small = ["--embedding", "6", "--widths", "9", "--window", "5", "--batch", "4", "--length", "8", "--epochs", "1"]
    more = ["--method", "crop-s", "--sparsity", "0.9", "--data", str(place / "text"), "--vocabulary", "8"]
    command_line.main("ptb", [*small, *more, *runs])
    call(place)
    return place


@pytest.fixture
def place(origin: Path, tmp_path: Path) -> Path:
    shutil.copytree(origin / "out", tmp_path / "out")
    shutil.copytree(origin / "runs", tmp_path / "runs")
    return tmp_path


def check(place: Path) -> tuple[int, str]:
    return call(place, "check", width=400)


def run_of(place: Path, method: str) -> tuple[Path, Any]:
    for folder in (place / "runs").iterdir():
        config = json.loads((folder / "config.json").read_text())
        if config["method"] == method:
            return folder, config
    raise AssertionError(method)


def test_what_was_measured_is_counted_again(place: Path) -> None:
    code, output = check(place)
    assert (code, output.splitlines()[-1]) == (0, "Records checked: 4, models counted again: 4, problems: 0")
    shutil.rmtree(run_of(place, "snip")[0])
    assert check(place)[1].endswith("Records checked: 4, models counted again: 3, problems: 0\n")


def test_a_model_that_is_another_than_its_record_says_is_named(place: Path) -> None:
    masked, config = run_of(place, "snip")
    task = made(config)
    model = earlycrop.load(masked, task.model())
    with torch.no_grad():
        next(iter(model.parameters()))[:] = 1.0  # weights that were cut live again
    earlycrop.save(model, masked)
    small, _ = run_of(place, "earlycrop-s")
    earlycrop.save(task.model(), small)
    code, output = check(place)
    assert code == 1
    for folder, fields in ((masked, ("weight_sparsity", "parameters")), (small, ("parameters", "node_sparsity"))):
        for name in fields:
            line = next(line for line in output.splitlines() if f"{folder.name}.json: {name} is" in line)
            assert f"in the model saved in {folder}" in line
    assert "models counted again: 4, problems: 5" in output  # weight_sparsity of both


def test_a_model_of_another_run_than_the_records_is_passed_over(place: Path) -> None:
    small, _ = run_of(place, "earlycrop-s")
    result = json.loads((small / "result.json").read_text())
    (small / "result.json").write_text(json.dumps({**result, "value": result["value"] + 1}))
    code, output = check(place)
    assert code == 0
    assert f"{small}: not counted again: it is another run than the one in the record" in output
    assert "models counted again: 3, problems: 0" in output


def test_a_broken_model_is_named_and_one_without_its_data_reported(place: Path, origin: Path) -> None:
    small, _ = run_of(place, "earlycrop-s")
    (small / "model.safetensors").write_bytes(b"half")
    (origin / "text").rename(origin / "gone")
    try:
        code, output = check(place)
    finally:
        (origin / "gone").rename(origin / "text")
    assert code == 1
    assert f"{small.name}.json: its model cannot be counted: {small}" in output
    assert f"{run_of(place, 'crop-s')[0]}: not counted again: " in output
    assert "models counted again: 2, problems: 1" in output


def test_options_come_back_from_a_configuration() -> None:
    for module, name, arguments in (
        (cartpole, "cartpole", ["--widths", "3", "4", "--floors", "0.*", "2", "--method", "snip"]),
        (ptb, "ptb", ["--preset", "tiny", "--widths", "5", "--clip", "None"]),
    ):
        options = parse(module, arguments)
        config = configuration(name, options)
        assert options_of(module, config) == options
        assert configuration(name, options_of(module, config)) == config
    with pytest.raises(TypeError, match="there is no option of_old any more"):
        options_of(ptb, {"task": "ptb", "of_old": 1})
    assert Recount(Path("nowhere")).counted == 0
