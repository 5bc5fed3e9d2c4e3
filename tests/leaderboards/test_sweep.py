"""Sweeps: a study's runs in processes of their own, found again, tried again, and failures told."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from leaderboards import __main__ as command
from leaderboards import studies
from leaderboards.build import tabulate
from leaderboards.plots import pruning_epoch
from leaderboards.records import read_records
from leaderboards.studies import STUDIES, Run
from leaderboards.sweep import runs_with_data
from tasks import names
from tasks.runner import arguments
from tasks.runner.store import configuration, identity

TINY = ("--steps", "300", "--epochs", "2", "--agents", "2", "--widths", "8", "8", "--scoring-rollouts", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a study of a dense and a pruned run a seed, and of one that cannot be."""

    def tiny(seed: int) -> Iterator[Run]:
        for method in ("dense", "snap"):
            yield Run("cartpole", (*TINY, "--method", method, "--seed", str(seed)))
        yield Run("cartpole", (*TINY, "--discount", "2"))

    monkeypatch.setitem(studies.STUDIES, "tiny", tiny)
    return tmp_path


def call(place: Path, *more: str) -> int:
    return command.main(["sweep", "tiny", "--runs", str(place / "runs"), "--out", str(place / "out"), *more])


def test_a_sweep_runs_what_is_missing_and_reports_what_failed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place, "--seeds", "1") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "found: 0, new: 2, failed: 1" in output
    assert "--discount 2: error: discount must be 0 or more and at most 1, not 2.0" in output
    first = read_records(place / "out")
    assert {r.result.method for r in first.values()} == {"dense", "snap"}
    assert len((place / "out" / "cartpole.csv").read_text().splitlines()) == 3
    table = pd.read_csv(place / "out" / "tables" / "tiny.csv")
    assert list(table["method"]) == ["dense", "snap (schedule after-cut)"]
    by_method = {r.result.method: r.result for r in first.values()}
    assert list(table["mean"]) == pytest.approx([by_method[m].value for m in ("dense", "snap")])
    assert list(table["seeds"]) == [1, 1]


@pytest.mark.slow
def test_a_sweep_of_more_seeds_runs_the_others_and_forgets_none(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(place, "--seeds", "1") == 1
    first = read_records(place / "out")
    assert "found: 0, new: 2, failed: 1" in capsys.readouterr().out
    assert call(place, "--seeds", "2") == 1
    assert "found: 2, new: 2, failed: 1" in capsys.readouterr().out
    both = read_records(place / "out")
    assert len(both) == 4
    text = (place / "out" / "tables" / "tiny.csv").read_text()
    assert list(pd.read_csv(place / "out" / "tables" / "tiny.csv")["seeds"]) == [2, 2]
    tabulate("tiny", 1, None, place / "out", Console(quiet=True), [])
    assert (place / "out" / "tables" / "tiny.csv").read_text() == text, "a study of fewer seeds forgets none"
    assert {run: both[run] for run in first} == first


@pytest.mark.slow
def test_a_run_that_finished_elsewhere_is_taken_in(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place, "--seeds", "1") == 1
    for record in (place / "out" / "records" / "cartpole").iterdir():
        record.unlink()
    times = {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")}
    assert call(place, "--seeds", "1") == 1
    assert len(read_records(place / "out")) == 2
    assert times == {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")}


@pytest.mark.slow
def test_a_method_that_trains_beyond_its_budget_has_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(studies.STUDIES, "tiny", lambda seed: iter([Run("cartpole", (*TINY, "--method", "ltr"))]))
    assert call(tmp_path) == 0
    (record,) = read_records(tmp_path / "out").values()
    assert record.result.pruned_epoch is not None
    assert record.result.pruned_epoch > record.result.epochs == 2


@pytest.mark.slow
def test_a_result_that_cannot_be_is_reported_and_stops_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place, "--seeds", "1") == 1
    for record in (place / "out" / "records" / "cartpole").iterdir():
        record.unlink()
    (broken,) = (p for p in (place / "runs").glob("*/result.json") if '"snap"' in p.read_text())
    broken.write_text(broken.read_text().replace('"pruned_epoch": 0', '"pruned_epoch": 9'))
    capsys.readouterr()
    assert call(place, "--seeds", "1") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "found: 0, new: 1, failed: 2" in output
    assert "pruned_epoch is 9, not between 0 and 2 epochs" in output
    assert [r.result.method for r in read_records(place / "out").values()] == ["dense"]


@pytest.mark.slow
def test_copies_that_are_pruned_at_an_epoch_branch_off_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = (*TINY, "--epochs", "3", "--method", "dense", "--schedule", "constant", "--keep", "2")
    pruned = (*TINY, "--epochs", "3", "--method", "crop-s", "--sparsity", "0.5", "--trigger", "2")
    study = [Run("cartpole", pruned, dense), Run("cartpole", dense)]
    monkeypatch.setitem(studies.STUDIES, "tiny", lambda seed: iter(study))
    assert call(tmp_path) == 0
    records = {r.result.method: r for r in read_records(tmp_path / "out").values()}
    trunk = tmp_path / "runs" / records["dense"].result.run
    assert [line.get("branched_from") for line in records["crop-s"].log] == [None, trunk.name, None]
    assert (trunk / "checkpoint" / "epoch-00002").is_dir()
    above, middle, _ = pruning_epoch.figure(list(read_records(tmp_path / "out").values())).axes
    assert list(above.lines[1].get_xdata()) == [2]  # the first line is dense's
    assert above.lines[1].get_ydata()[0] == pytest.approx(records["crop-s"].result.value)
    assert middle.lines
    assert imread(tmp_path / "out" / "tables" / "tiny.png").std() > 0.01
    assert pruning_epoch.figure([]) is None
    assert pruning_epoch.figure([records["dense"]]) is None
    assert pruning_epoch.figure([records["crop-s"]]) is None


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["nothing"], "there is no study 'nothing': take one of table1"),
        (["fig4", "--seeds", "0"], "--seeds must be at least 1"),
        (["fig4", "--data", "/nowhere"], "There is no folder /nowhere"),
        (["fig4", "--jobs", "-1"], "--jobs must be at least 0, and is -1."),
        (["fig4", "--gpus", "1"], "--address and --gpus are of a Ray cluster: add --where ray, or leave them out"),
        (["fig4", "--address", "a:1"], "--address and --gpus are of a Ray cluster"),
    ],
)
def test_what_cannot_be_swept_is_a_sentence(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["sweep", *more, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in " ".join(said.split())


LARGE = {"fig3", "fig4", "fig5", "fig7"}
"""Studies of hundreds of runs, each of which is parsed as a command line."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in STUDIES])
def test_every_study_has_runs_that_can_be_and_no_two_alike(name: str) -> None:
    runs = [run for run in STUDIES[name](0) if run.task in names()]
    ids = set()
    for run in runs:
        options = arguments.parse(importlib.import_module(f"tasks.{run.task}"), list(run.arguments))
        arguments.check(options)
        ids.add(identity(configuration(run.task, options)))
    assert len(ids) == len(runs) > 0
    assert set(STUDIES[name](0)).isdisjoint(STUDIES[name](1))


def test_data_goes_to_the_tasks_that_it_is_of(tmp_path: Path) -> None:
    (tmp_path / "cartpole").mkdir()
    cartpole, acrobot = runs_with_data([Run("cartpole", ()), Run("acrobot", ())], tmp_path)
    assert cartpole.arguments == ("--data", str(tmp_path / "cartpole"))
    assert acrobot.arguments == ()
    (tmp_path / "rooms").mkdir()
    (named,) = runs_with_data([Run("cartpole", (), data="rooms")], tmp_path)
    assert named.arguments == ("--data", str(tmp_path / "rooms"))
