"""Collecting runs: their records and CSV, files that survive, and what is corrupt."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leaderboards import __main__ as command
from leaderboards import build
from leaderboards.plots.learning import draw
from leaderboards.records import finished_runs, read_records
from leaderboards.table import csv_text
from tasks.runner.files import replacing
from tasks.runner.result import KINDS
from tests.leaderboards.commands import call
from tests.leaderboards.results import ALL, DENSE, EARLY, edit, write_run


def test_collect_writes_records_and_csv_that_read_back(place: Path) -> None:
    code, output = call(place)
    assert code == 0
    assert ": 6, new: 6;" in output
    with (place / "out" / "cartpole.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(KINDS)
    assert [row["run"] for row in rows] == ["d0", "d1", "e0", "e1", "e2", "s0"]
    for row, result in zip(rows, ALL, strict=True):
        for name in KINDS:
            value = getattr(result, name)
            assert row[name] == ("" if value is None else str(value)), name
    kept = read_records(place / "out")
    assert [kept[result.run].result for result in ALL] == ALL
    assert "runs" not in kept["e0"].config
    assert [line["games"] for line in kept["e0"].log] == [10, 20, 30]


def test_unfinished_and_failed_runs_are_skipped_and_counted(place: Path) -> None:
    for name, files in (("u", ["config.json"]), ("f", ["config.json", "failure.json"]), ("g", ["failure.json"])):
        (place / "runs" / name).mkdir()
        for file in files:
            (place / "runs" / name / file).write_text("{}")
    assert finished_runs(place / "runs")[1] == {"unfinished": 1, "failed": 2}
    code, output = call(place)
    assert code == 0
    assert ": 6, new: 6;" in output
    assert "1 unfinished, 2 failed" in output


def test_a_record_says_by_which_rule_its_id_is_made(place: Path) -> None:
    """A run whose configuration holds what its method ignores is one of version 1, which has no field."""
    write_run(place / "runs", EARLY, rounds=5)
    write_run(place / "runs", DENSE, rounds=5)
    assert call(place)[0] == 0
    kept = read_records(place / "out")
    assert (kept["e0"].version, kept["d0"].version) == (2, 1)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    assert "version" not in path.with_stem("d0").read_text()
    edit(path, '"version": 2', '"version": 3')
    code, output = call(place, "show")
    assert code == 1
    assert "e0.json: there is no version 3 of records" in output


def test_a_run_that_was_set_aside_is_not_collected(place: Path) -> None:
    write_run(place / "runs", EARLY).rename(place / "runs" / "e0.old1")
    assert ": 5, new: 5;" in call(place)[1]


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
def test_a_record_of_another_run_is_replaced_only_where_that_is_asked_for(
    place: Path, newer: bool, replaced: bool
) -> None:
    call(place)
    path = write_run(place / "runs", replace(EARLY, value=12.5)) / "result.json"
    now = path.stat().st_mtime + (100 if newer else -100)
    os.utime(path, (now, now))
    _, output = call(place, *["--replace"] * replaced)
    (line,) = [line for line in output.splitlines() if line.startswith("run e0: ")]
    assert line.startswith("run e0: replaced" if replaced else "run e0: kept")
    assert ("--replace" in line) != replaced
    assert read_records(place / "out")["e0"].result.value == (12.5 if replaced else 90.0)
    assert call(place, "check")[0] == 0


def test_a_first_command_changes_no_committed_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out runs are taken in beside themselves, and show writes nothing."""
    monkeypatch.chdir(place)
    assert call(place)[0] == 0
    (place / "out").rename(place / "leaderboards")
    before = {path: path.read_bytes() for path in (place / "leaderboards").rglob("*") if path.is_file()}
    write_run(place / "runs", replace(EARLY, run="e7", seed=7))
    console = Console(width=200, file=io.StringIO())
    assert [command.main(line, console) for line in ([], ["show"])] == [0, 0]
    assert "e7.json" in {path.name for path in (place / "runs" / "leaderboard" / "records").glob("*/*")}
    assert before == {path: path.read_bytes() for path in (place / "leaderboards").rglob("*") if path.is_file()}
    assert {path.name for path in place.iterdir()} == {"runs", "leaderboards"}
    assert finished_runs(place / "runs")[1] == {}


def test_collecting_again_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "draw", draw)
    call(place)
    before = {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()}
    for path in (place / "runs").glob("*/result.json"):
        os.utime(path, (1, 1))
    _, output = call(place)
    assert ": 6, new: 0;" in output
    assert {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("result.json", '"seed": 0', '"seed": ', r"e0/result.json:\d+: not JSON"),
        ("result.json", '"macs": 80', '"macs": "80"', "e0/result.json: field macs"),
        ("result.json", '"weight_sparsity": 0.9', '"weight_sparsity": 9.0', "e0: weight_sparsity is 9.0"),
        ("result.json", '"run": "e0"', '"run": "../x"', "e0/result.json: holds run"),
        ("config.json", "{", "", "e0/config.json:1: not JSON"),
        ("config.json", '"seed": 0', '"seed": 5', "e0: seed is 0 in the result and 5 in the configuration"),
        ("log.jsonl", '"epoch": 2', '"epoch"', "e0/log.jsonl:2: not JSON"),
        ("log.jsonl", '"games": 20', '"games": 2', "e0: games must count all games so far"),
    ],
)
def test_corrupt_run_is_named_and_the_others_are_taken_in(
    place: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(place / "runs" / "e0" / file, old, new)
    code, output = call(place)
    assert code == 1
    assert re.search(message, output)
    assert set(read_records(place / "out")) == {result.run for result in ALL} - {"e0"}
    assert "e0" not in (place / "out" / "cartpole.csv").read_text()


def test_corrupt_record_is_named_and_nothing_is_overwritten(place: Path) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    path.write_text("{")
    before = (place / "out" / "cartpole.csv").read_bytes()
    write_run(place / "runs", replace(EARLY, run="e7", seed=7))
    code, output = call(place)
    assert (code, path.read_text()) == (1, "{")
    assert output.count("e0.json:1: not JSON") == 1
    assert (place / "out" / "cartpole.csv").read_bytes() == before, "it would lose the row of e0"
    assert path.with_name("e7.json").exists()
    for name in ("show", "page"):
        code, output = call(place, name)
        assert (code, output.count("e0.json:1: not JSON")) == (1, 1)
        assert (place / "out" / "cartpole.csv").read_bytes() == before
    path.unlink()
    assert call(place)[0] == 0
    assert path.exists()


def test_several_that_finish_at_once_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "draw", lambda _, stem: stem.with_suffix(".png"))

    def finish(i: int) -> None:
        """The later one comes, the faster it is."""

        def slowly(results: Any) -> str:
            text = csv_text(results)
            time.sleep(0.05 * (8 - i))
            return text

        monkeypatch.setattr(build, "csv_text", slowly)
        runs = tmp_path / str(i)
        write_run(runs, replace(EARLY, run=f"e{i}", seed=i))
        time.sleep(0.02 * i)
        command.main(["collect", "--runs", str(runs), "--out", str(tmp_path / "out")])

    several = [multiprocessing.get_context("fork").Process(target=finish, args=(i,)) for i in range(8)]
    for process in several:
        process.start()
    for process in several:
        process.join()
    rows = csv.DictReader((tmp_path / "out" / "cartpole.csv").read_text().splitlines())
    assert {row["run"] for row in rows} == {f"e{i}" for i in range(8)} == set(read_records(tmp_path / "out"))


def test_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "cartpole.csv"
    path.write_text("old")

    def crash() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_may_be_read_by_others(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with replacing(tmp_path / "folder" / "cartpole.csv") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(umask)
    assert (tmp_path / "folder" / "cartpole.csv").stat().st_mode & 0o777 == 0o644


def test_csv_survives_a_crash_of_the_program(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(place)
    before = (place / "out" / "cartpole.csv").read_bytes()
    write_run(place / "runs", replace(EARLY, run="e7", seed=7))

    def fail(source: Path, target: Path) -> None:
        if target.suffix == ".csv":
            raise OSError("disk full")
        os.rename(source, target)

    monkeypatch.setattr("tasks.runner.files.os.replace", fail)
    code, output = call(place)
    assert code == 2
    assert "cannot be written or read (disk full); nothing was lost: mend that, and run the same command" in output
    assert (place / "out" / "cartpole.csv").read_bytes() == before
    assert {path.name for path in (place / "out").glob(".*")} == {".lock"}
