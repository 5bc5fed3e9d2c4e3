"""What is made of a study's records: its table, its pictures, and whether they are what the records say."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.image import imread

from leaderboards import __main__ as command
from leaderboards import studies
from leaderboards.plots import cost, sparsity
from leaderboards.records import Record, read_records, write_record
from leaderboards.studies import Run
from leaderboards.sweep import missing, run_id, run_ids
from leaderboards.table import study_text
from tasks.runner import command_line
from tasks.runner.result import Result
from tasks.runner.store import configuration, identity
from tests.leaderboards.commands import call
from tests.leaderboards.results import DENSE, EARLY, event

RUNS = [Run("cartpole", ("--method", "dense"))] + [
    Run("cartpole", ("--method", method, "--sparsity", sparsity))
    for method in ("earlycrop-s", "snip")
    for sparsity in ("0.3", "0.7")
]
COSTS = {"batch_ms": 2.0, "dense_batch_ms": 4.0, "step_bytes": 300, "dense_step_bytes": 400, "of_macs_limit": 0.9}


def records() -> list[Record]:
    """Of a dense run and two methods at two sparsities, with ids that the study's runs have."""
    results = [replace(DENSE, emissions_g=30.0, train_seconds=1800.0)]
    for run in RUNS[1:]:
        structured, asked = run.arguments[1] == "earlycrop-s", float(run.arguments[3])
        changes = {**COSTS, "sparsity_asked": asked, "value": 100 - 20 * asked, "structured": structured}
        results.append(replace(EARLY, method=run.arguments[1], **changes))
    return [recorded(run, replace(result, run=run_id(run))) for run, result in zip(RUNS, results, strict=True)]


def recorded(run: Run, result: Result) -> Record:
    """The record of a run with that result."""
    options = command_line.parse(importlib.import_module(f"tasks.{run.task}"), list(run.arguments))
    same = {name: getattr(options, name) for name in ("preset", "epochs", "method", "seed")}
    result = replace(result, **same)
    log: list[dict[str, Any]] = [] if result.pruned_epoch is None else [{"epoch": 1, "event": event(result)}]
    return Record(config=configuration(run.task, options), result=result, log=log, finished="", version=2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter(RUNS))
    for record in records():
        write_record(tmp_path / "out", record)
    return tmp_path


def test_a_study_of_several_sparsities_has_its_pictures_and_its_table(place: Path) -> None:
    assert call(place, "show", "sparse")[0] == 0
    tables = place / "out" / "tables"
    assert {p.name for p in tables.iterdir()} == {
        f"sparse{kind}" for kind in (".csv", ".png", ".svg", "-costs.png", "-costs.svg")
    }
    for picture in tables.glob("*.png"):
        assert imread(picture).std() > 0.01
    table = pd.read_csv(tables / "sparse.csv")
    assert set(table["sparsity_of"]) == {"weights"}
    lines = table[table["method"] == "snip"].set_index("sparsity_asked")
    by_asked = {r.result.sparsity_asked: r.result.run for r in records() if r.result.method == "snip"}
    assert lines["runs"].to_dict() == by_asked


@pytest.mark.usefixtures("empty_pictures")
def test_a_table_does_not_lose_runs_of_other_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(place, "show", "sparse")
    table = place / "out" / "tables" / "sparse.csv"
    before = table.read_text()
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter(RUNS[:-1]))
    code, output = call(place, "show", "sparse")
    assert code == 2
    assert f"has runs that this would leave out, such as {run_id(RUNS[-1])}: give the --data" in output
    assert table.read_text() == before
    table.unlink()
    assert call(place, "show", "sparse")[0] == 0


def test_records_of_an_earlier_version_are_found(tmp_path: Path) -> None:
    """Whose ids count what the method ignores."""
    now, earlier = run_ids(RUNS[0])
    assert now != earlier
    config = {"task": "cartpole", "method": "dense", "sparsity": 0.5}
    assert identity(config) == identity({**config, "sparsity": 0.9}) != identity(config, 1)
    assert missing(RUNS, tmp_path) == list(RUNS)
    old = replace(records()[0].result, run=earlier)
    write_record(tmp_path, Record(config=config, result=old, log=[], finished=""))
    assert missing(RUNS, tmp_path) == list(RUNS[1:])


def test_the_curves_by_hand() -> None:
    measured = records()
    nodes, weights = sparsity.figure(measured).axes
    assert [line.get_label() for line in nodes.lines[1:]] == ["earlycrop-s"]
    assert [line.get_label() for line in weights.lines[1:]] == ["snip"]
    assert list(nodes.lines[1].get_xdata()) == pytest.approx([0.7, 0.3])  # what is left
    early = [record for record in measured if record.result.structured][:1]
    tenth = [replace(record, result=replace(record.result, sparsity_asked=0.9)) for record in early]
    nodes, _ = sparsity.figure([*tenth, *(record for record in measured if not record.result.structured)]).axes
    assert list(nodes.lines[1].get_xdata()) == pytest.approx([0.1])  # a panel of one point warns of nothing
    assert nodes.get_xlim()[0] == pytest.approx(1.2 * 0.7)  # and has the limits of its neighbour


def test_a_variant_has_a_curve_and_a_kind_that_nothing_was_given_no_panel() -> None:
    single = [record for record in records() if not record.result.structured]
    variants = [replace(r, result=replace(r.result, variant="gate rows")) for r in single if r.result.method == "snip"]
    (weights,) = sparsity.figure([*single, *variants]).axes
    assert [line.get_label() for line in weights.lines[1:]] == ["snip", "snip (gate rows)"]
    assert len({line.get_color() for line in weights.lines}) == 3
    assert "CartPole-v0" in weights.get_title("left")
    assert weights.get_ylabel()


def test_costs_are_shares_of_what_dense_costs_in_the_same_run() -> None:
    time, memory = cost.figure(records()).axes
    for panel, share in ((time, 0.5), (memory, 0.75)):
        points = {tuple(line.get_color() for line in [c.lines[0]]): c.lines[0] for c in panel.containers}
        at = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in points.values()]
        assert sorted(at) == sorted([[(1.0, 100.0)], [(share, 94.0), (share, 86.0)], [(share, 94.0), (share, 86.0)]])
        names = {text.get_text() for text in panel.texts}
        assert names == {"dense", "earlycrop-s", "snip"}
        assert all(panel.get_ylim()[0] < text.get_position()[1] < panel.get_ylim()[1] for text in panel.texts)
    level = [replace(r, result=replace(r.result, seed=s, value=93.4)) for r in records() for s in range(3)]
    assert len(cost.figure(level).axes) == 2  # a mean of equal values may be below the lowest, by rounding
    assert not list(cost.parts([r for r in records() if r.result.method != "dense"]))
    other = [replace(r, result=replace(r.result, device="a GPU", value=1.0)) for r in records()]
    assert len(cost.figure([*records(), *other]).axes) == 4  # times of two devices are not compared
    same = [replace(r, result=replace(r.result, step_bytes=r.result.dense_step_bytes)) for r in records()]
    (time,) = cost.figure(same).axes  # a memory that no method lowers says nothing
    assert time.get_xlabel().startswith("time")


@pytest.mark.usefixtures("empty_pictures")
def test_a_price_and_emissions_are_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output = call(place, "show", "--price", "2.5", "--task", "cartpole")
    dense = next(line for line in output.splitlines() if " dense " in line)
    assert dense.split()[-2:] == ["30", "1.25"]  # g, and half an hour
    _, output = call(place, "show", "sparse", "--price", "2.5")
    assert "cost" in output
    assert "1.25" in next(line for line in output.splitlines() if " dense " in line)
    for price in ("0", "-1", "inf", "nan"):
        with pytest.raises(SystemExit, match="2"):
            call(place, "show", f"--price={price}")
        assert "--price must be a number above 0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("empty_pictures")
def test_a_table_that_is_not_what_its_records_say_is_named(place: Path) -> None:
    call(place, "show", "--task", "cartpole")
    call(place, "show", "sparse")
    (place / "README.md").write_text("")
    assert call(place, "check")[0] == 0
    table = place / "out" / "tables" / "sparse.csv"
    right = table.read_text()
    lines = right.splitlines(keepends=True)
    again = "write it again with python -m leader"
    for wrong, sentence in (
        (right.replace(",94,", ",95,", 1), f"sparse.csv:3: mean is '95', but '94' by its records: {again}"),
        (right.replace("cartpole-", "cartpole-0", 1), "sparse.csv:2: run cartpole-0"),
        (
            right.replace(",runs\n", ",run\n", 1),
            "sparse.csv:1: a study's table names its runs in the column runs, and this one names",
        ),
        (
            right.replace("\n", ",more\n", 1),
            "sparse.csv:1: the columns are not those of a study (more): write it again",
        ),
        # without the first dense line, whose run the other one names
        ("".join([lines[0], *lines[2:]]), "sparse.csv: there are 5 lines, and 6 of its runs' records"),
    ):
        assert wrong != right
        table.write_text(wrong)
        code, output = call(place, "check")
        assert code == 1
        assert sentence in output


@pytest.mark.usefixtures("empty_pictures")
def test_a_table_that_lacks_a_run_of_its_study_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the runs were made with data that are not here any more."""
    several = [Run("ptb", ("--seed", str(seed), "--method", m)) for seed in range(2) for m in ("dense", "crop-s")]
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter(several[2 * seed :][:2]))
    ids = []
    for run in several:
        run = replace(run, arguments=(*run.arguments, "--data", "gone/ptb"))
        ids.append(run_id(run))
        result = replace(DENSE if "dense" in run.arguments else EARLY, task="ptb", run=ids[-1])
        read = recorded(run, result)
        if len(ids) <= 2:
            write_record(place / "out", read)
    call(place, "show")
    (place / "README.md").write_text("")
    table = place / "out" / "tables" / "sparse.csv"
    table.parent.mkdir()
    table.write_text(study_text(record.result for run, record in read_records(place / "out").items() if run in ids))
    assert call(place, "check")[0] == 0
    write_record(place / "out", read)
    call(place, "show")
    code, output = call(place, "check")
    assert code == 1
    assert f"sparse.csv: 1 of the study's runs have a record and are not in it, such as {ids[-1]}: write it" in output


@pytest.mark.usefixtures("empty_pictures")
def test_a_sweep_that_would_drop_runs_from_its_table_is_refused_before_it_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(place, "show", "sparse")
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter([Run("cartpole", ("--epochs", "1"))]))
    code, output = call(place, "sweep", "sparse")
    assert code == 2
    assert "has runs that this would leave out" in output
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_runs_whose_emissions_failed_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ("--steps", "300", "--epochs", "2", "--agents", "2", "--widths", "8", "8", "--method", "dense")
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter([Run("cartpole", tiny)]))
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import codecarbon\n\n\ndef start(self):\n    raise OSError('no power')\n\n\n"
        "codecarbon.OfflineEmissionsTracker.start = start\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    code, output = call(tmp_path, "sweep", "sparse", "--country", "DEU")
    assert code == 0
    assert f"without emissions, though --country asks for them: {run_id(Run('cartpole', tiny))}" in output


@pytest.mark.parametrize(
    "line", [["show", "--country", "DEU"], ["check", "--price", "1"], ["trigger", "t0", "--data", "x"], ["trigger"]]
)
def test_options_of_other_commands_are_not_taken(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(line)
    output = " ".join(capsys.readouterr().err.split())
    assert ("RUN" if line == ["trigger"] else line[-2]) in output


def test_data_without_a_study_is_refused(place: Path) -> None:
    code, output = call(place, "show", "--data", str(place))
    assert code == 2
    assert output.startswith("error: --data tells which runs are a study's: name the study")


@pytest.mark.slow
def test_a_study_is_swept_with_its_country(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ("--steps", "300", "--epochs", "2", "--agents", "2", "--widths", "8", "8", "--method", "dense")
    monkeypatch.setitem(studies.STUDIES, "sparse", lambda seed: iter([Run("cartpole", tiny)]))
    assert call(tmp_path, "sweep", "sparse", "--country", "DE")[1].startswith("error: codecarbon knows no country 'DE'")
    assert not (tmp_path / "runs").exists()
    assert call(tmp_path, "sweep", "sparse", "--country", "DEU")[0] == 0
    (row,) = pd.read_csv(tmp_path / "out" / "cartpole.csv").itertuples()
    assert row.emissions_country == "DEU"
    assert row.emissions_g > 0
    assert row.run == run_id(Run("cartpole", tiny))  # of the same run without
