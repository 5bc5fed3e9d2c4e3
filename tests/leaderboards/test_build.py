"""Leaderboards: what is collected, files that survive, mistakes that are named."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rich.console import Console

from leaderboards import __main__ as command
from leaderboards import build, consistency
from leaderboards.check import history
from leaderboards.plots.learning import draw
from leaderboards.records import finished_runs, read_records, replacing
from leaderboards.table import csv_text
from tasks.runner.outcome import commit
from tasks.runner.result import KINDS
from tests.leaderboards.commands import call
from tests.leaderboards.results import ALL, DENSE, EARLY, edit, write_run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six finished runs, whose ids are short; pictures, which take most of the time, are drawn only where
    they are tested."""
    monkeypatch.setattr(build, "draw", lambda _, stem: stem.with_suffix(".png"))
    monkeypatch.setattr(consistency, "identity", lambda config, version: f"{config['method'][0]}{config['seed']}")
    for result in ALL:
        write_run(tmp_path / "runs", result)
    return tmp_path


def test_collect_writes_records_and_csv_that_read_back(place: Path) -> None:
    code, said = call(place)
    assert code == 0
    assert ": 6, new: 6;" in said
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
    code, said = call(place)
    assert code == 0
    assert ": 6, new: 6;" in said
    assert "1 unfinished, 2 failed" in said


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
    code, said = call(place, "show")
    assert code == 2
    assert "e0.json: there is no version 3 of records" in said


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
    _, said = call(place, *["--replace"] * replaced)
    (line,) = [line for line in said.splitlines() if line.startswith("run e0: ")]
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
    _, said = call(place)
    assert ": 6, new: 0;" in said
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
def test_corrupt_run_is_named_and_nothing_is_written(place: Path, file: str, old: str, new: str, message: str) -> None:
    edit(place / "runs" / "e0" / file, old, new)
    code, said = call(place)
    assert code == 2
    assert re.search(message, said)
    assert not (place / "out").exists()


def test_corrupt_record_is_named_and_nothing_is_overwritten(place: Path) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    path.write_text("{")
    before = (place / "out" / "cartpole.csv").read_bytes()
    write_run(place / "runs", replace(EARLY, run="e7", seed=7))
    code, said = call(place)
    assert (code, path.read_text()) == (2, "{")
    assert "e0.json:1: not JSON" in said
    assert (place / "out" / "cartpole.csv").read_bytes() == before
    assert not path.with_name("e7.json").exists()


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

    monkeypatch.setattr("tasks.runner.atomic_files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        call(place)
    assert (place / "out" / "cartpole.csv").read_bytes() == before
    assert {path.name for path in (place / "out").glob(".*")} == {".lock"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return,96.0", "return,97.0", r"cartpole.csv:5: run e1: value is '97.0', but '96.0' in its record"),
        ("\ne1,", "\nzz,", r"cartpole.csv:5: run zz has no record"),
        ("\ne1,", "\ne0,", r"cartpole.csv:5: run e0 is there twice"),
        ("weight_sparsity", "sparseness", r"cartpole.csv:1: the columns"),
        ("0012345,,,,,,,,,,,,,\n", "0012345,,,,,,,,,,,,,,extra\n", r"cartpole.csv:2: run d0: beyond the last column"),
    ],
)
def test_check_names_the_line_of_a_tampered_row(place: Path, old: str, new: str, message: str) -> None:
    call(place)
    assert call(place, "check")[0] == 0
    edit(place / "out" / "cartpole.csv", old, new)
    code, said = call(place, "check")
    assert code == 1
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('"node_sparsity": 0.5', '"node_sparsity": -0.5', "node_sparsity", "not between 0 and 1"),
        ('"macs": 80', '"macs": 0', "macs", "not positive"),
        ('"pruned_epoch": 1', '"pruned_epoch": 4', "pruned_epoch", "not between 0 and 3"),
        ('"sparsity_asked": 0.9', '"sparsity_asked": null', "sparsity_asked", "for method earlycrop-s"),
    ],
)
def test_check_names_the_line_of_a_bad_record(place: Path, old: str, new: str, field: str, message: str) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    edit(path, old, new)
    line = 1 + next(number for number, text in enumerate(path.read_text().splitlines()) if f'"{field}"' in text)
    code, said = call(place, "check")
    assert code == 1
    assert re.search(rf"e0.json:{line}: {field} is .*{message}", said)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed": 0', '"seed": 3', r"e0.json:\d+: run is e0, but the id of its configuration is e3"),
        ('"parameters": 100,', '"parameters": 101,', r"e0.json:\d+: parameters is 101, but 100 at the end of the log"),
        ('"macs": 80', '"macs": 901', r"e0.json:\d+: macs is 901, more than 900 in the dense network"),
        ('"pruned_epoch": 1', '"pruned_epoch": 2', r"pruned_epoch is 2, but 1 in the pruning of the log"),
        ('"pruned_why": "lazy, it says"', '"pruned_why": "knee"', r"pruned_why is 'knee', but 'lazy, it says' in the"),
        ('"weight_sparsity": 0.9', '"weight_sparsity": 0.8', r"weight_sparsity is 0.8, but 0.9 in the pruning"),
        ('"node_sparsity": 0.5', '"node_sparsity": 0.6', r"node_sparsity is 0.6, but 0.5 in the pruning of the log"),
        ('"sparsity_asked": 0.9', '"sparsity_asked": 0.8', r"sparsity_asked is 0.8, but 0.9 in the pruning of the"),
        (
            '"achieved": 0.9',
            '"achieved": 0.7',
            r"achieved is 0.7 of the weights in its pruning, but weight_sparsity 0.9",
        ),
        ('"left": 100', '"left": 300', r"achieved is 0.9 in its pruning, which left 300 of 1000"),
        (
            '"dense": 1000',
            '"costs": {"nodes": [10, 6]}, "dense": 1000',
            r"node_sparsity is 0.5 in its pruning, which left 6",
        ),
        ('"event": {', '"was": {', r"weight_sparsity is 0.9, but no pruning is in the log"),
    ],
)
def test_check_names_what_contradicts_itself(place: Path, old: str, new: str, message: str) -> None:
    write_run(place / "runs", replace(EARLY, dense_macs=900, dense_batch_ms=2.0))
    call(place)
    assert call(place, "check")[0] == 0
    edit(place / "out" / "records" / "cartpole" / "e0.json", old, new)
    code, said = call(place, "check")
    assert code == 1
    assert re.search(message, said)


def test_masked_networks_compute_what_the_dense_one_does(place: Path) -> None:
    masked = replace(ALL[-1], dense_macs=900, dense_batch_ms=2.0)
    write_run(place / "runs", replace(masked, macs=900))
    call(place)
    assert call(place, "check")[0] == 0
    path = place / "out" / "records" / "cartpole" / "s0.json"
    edit(path, '"dense": 1000', '"costs": {"macs": [900, 90]}, "dense": 1000')
    code, said = call(place, "check")
    assert code == 1
    assert re.search(r"s0.json:\d+: the multiply-accumulates go from 900 to 90 in a pruning of single weights", said)
    edit(path, '"macs": 900', '"macs": 90')
    code, said = call(place, "check")
    assert code == 1
    assert re.search(r"s0.json:\d+: macs is 90 without a node cut, but 900 in the dense network", said)


def test_check_names_a_commit_that_is_not_there(place: Path) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    now = commit().removesuffix("-dirty")
    for told, problem in ((now, False), (f"{now}-dirty", False), ("0" * 40, history() is not None)):
        edit(path, f'"commit": "{json.loads(path.read_text())["result"]["commit"]}"', f'"commit": "{told}"')
        call(place, "show")  # its CSV
        code, said = call(place, "check")
        assert code == int(problem)
        assert (
            f"e0.json:{path.read_text()[: path.read_text().index('commit')].count(chr(10)) + 1}: commit" in said
        ) == problem
        assert ("of code that was not committed: e0" in said) == told.endswith("dirty")


def test_check_misses_no_row_no_order_and_no_file(place: Path) -> None:
    call(place)
    path = place / "out" / "cartpole.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "run s0 has a record but no row" in call(place, "check")[1]
    path.write_text("".join([lines[0], *reversed(lines[1:])]))
    assert "not sorted" in call(place, "check")[1]
    path.unlink()
    assert "cartpole.csv: missing" in call(place, "check")[1]
    (place / "out" / "records" / "cartpole" / "e0.json").write_text("no")
    assert "e0.json:1: not JSON" in call(place, "check")[1]


def test_nothing_to_do_is_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    code, said = call(tmp_path)
    assert code == 2
    assert said == f"No finished runs found in {tmp_path / 'runs'}: run `python -m tasks.cartpole` first.\n"
    assert call(tmp_path, "--task", "ptb")[1].endswith("run `python -m tasks.ptb` first.\n")
    assert call(tmp_path, "show")[0] == 2
    assert call(tmp_path, "check")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        call(tmp_path, "--colour", "red")
    assert exit_info.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_task_restricts_what_is_done(place: Path) -> None:
    write_run(place / "runs", replace(DENSE, run="p0", task="ptb", metric="perplexity", higher_is_better=False))
    assert call(place, "--task", "ptb")[0] == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == [".lock", "ptb.csv", "records"]


def test_narrow_terminal_cuts_nothing_off(place: Path) -> None:
    wide, narrow = call(place)[1], call(place, "show", width=80)[1]
    for text in (wide, narrow):
        assert "…" not in text
        assert re.search(r"2 +earlycrop-s +3 +95\.0 ± 4\.6 +-10\.0 +90\.00 +60\.00", text)
        assert re.search(r"earlycrop-s .*120 +80 +3 +10 +2\.0 *\n", text)
    assert max(map(len, narrow.split("Table:")[0].splitlines())) <= 80
    assert narrow.index("dense") < narrow.index("snip") < narrow.index("earlycrop-s")


def test_differing_settings_are_said(place: Path) -> None:
    write_run(place / "runs", ALL[3], lr=0.5)
    write_run(place / "runs", ALL[4], lr=0.25)
    assert "settings differ between these runs: lr: 0.25, 0.5" in call(place)[1]


def test_an_option_that_only_some_runs_have_is_said_of_what_it_limits(place: Path) -> None:
    write_run(place / "runs", ALL[3], multiple=8)
    write_run(place / "runs", ALL[4])
    assert "settings differ between these runs: multiple: 8, default" in call(place)[1]


def test_picture_is_a_png_of_sensible_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "draw", draw)
    _, said = call(place)
    path = place / "out" / "cartpole.png"
    assert f"Picture: {path}" in said
    height, width, _ = imread(path).shape
    assert 1500 < width < 2500
    assert 600 < height < 1200
    assert path.with_suffix(".svg").read_text().startswith("<?xml")


def test_a_run_s_triggers_are_drawn_and_told(place: Path) -> None:
    """Sixteen epochs: the window of an early pruning is 2 to 4."""
    folder = write_run(place / "runs", replace(DENSE, run="t0", epochs=16), epochs=16, sparsity=0.9)
    seen = [
        {"distance": 1.0},
        {"distance": 2.0, "unsquared": 0.5, "squared": 2.0, "algorithm1": 0.01, "fall": 0.9, "level": 0.9},
        {"distance": 2.2, "unsquared": 0.2, "squared": 0.9, "algorithm1": 0.01, "fall": 0.3, "level": 0.2},
        {"distance": 2.3, "unsquared": 0.09, "squared": 0.4, "algorithm1": 0.01, "fall": 0.6, "level": 0.1},
        {"distance": 2.3, "unsquared": 0.0, "squared": 0.0, "authors": 0.01, "fall": 0.6, "level": 0.1},
    ]
    log = [{"epoch": e, "loss": 1.0, "trigger": values} for e, values in enumerate(seen, start=1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    code, output = call(place, "trigger", "t0")
    assert code == 0
    fired = dict(line.split(": ", 1) for line in output.splitlines())
    assert fired.pop("Picture").startswith(str(folder / "trigger.png"))
    never = "not within the window"
    assert fired == {
        "unsquared": "epoch 4", "squared": never, "squared_current": never, "algorithm1": "epoch 2", "authors": never,
        "knee": "epoch 4", "mask_distance": never,
    }  # fmt: skip
    assert imread(folder / "trigger.png").std() > 0.01
    assert "epoch" in (folder / "trigger.svg").read_text()
    for arguments, sentence in (
        (["trigger", "t9"], "There is no run t9 in"),
        (["trigger", "d0"], "run d0 has no trace of its triggers: train it with --watch"),
    ):
        code, output = call(place, *arguments)
        assert (code, sentence in output) == (2, True), output
