"""Leaderboards: numbers worked out by hand, files that survive, mistakes that are named."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from earlycrop import METHODS
from leaderboards import __main__ as command
from leaderboards import boards
from leaderboards.check import history
from leaderboards.figures import band, draw, figure, method_looks, side_by_side
from leaderboards.records import Record, finished_runs, read_records, replacing
from leaderboards.table import csv_text, groups, short, summary
from tasks._outcome import commit
from tasks._record import KINDS, Result
from tests.commands import call

DENSE = Result(
    run="d0", task="cartpole", dataset="CartPole-v0", preset="default", network="mlp-8-8", method="dense",
    structured=False, sparsity_of="weights", sparsity_asked=None, weight_sparsity=0.0, node_sparsity=0.0,
    metric="return", value=100.0, higher_is_better=True, split="100 episodes", epochs=3, pruned_epoch=None,
    pruned_why=None, seed=0, parameters=1000, macs=900, train_seconds=10.0, batch_ms=2.0, peak_memory_bytes=5000,
    disk_bytes=4000, csr_bytes=8000, device="cpu", python="3.11.9", torch="2.13.0", commit="0012345",
)  # fmt: skip
EARLY = replace(
    DENSE, run="e0", method="earlycrop-s", structured=True, sparsity_asked=0.9, weight_sparsity=0.9, node_sparsity=0.5,
    value=90.0, pruned_epoch=1, pruned_why="lazy, it says", parameters=100, macs=80,
)  # fmt: skip
ALL = [
    DENSE,
    replace(DENSE, run="d1", seed=1, value=110.0),
    EARLY,
    replace(EARLY, run="e1", seed=1, value=96.0, parameters=140, batch_ms=4.0, pruned_epoch=2),
    replace(EARLY, run="e2", seed=2, value=99.0, parameters=120, batch_ms=3.0, node_sparsity=0.8, pruned_epoch=3),
    replace(EARLY, run="s0", method="snip", structured=False, value=97.0, node_sparsity=0.0, pruned_epoch=0),
]


def write_run(runs: Path, result: Result, games: tuple[int, ...] = (10, 20, 30), **config: Any) -> Path:
    folder = runs / result.run
    folder.mkdir(parents=True, exist_ok=True)
    options = {"task": result.task, "method": result.method, "seed": result.seed, "runs": "/somewhere"} | config
    (folder / "config.json").write_text(json.dumps(options))
    log = [
        {"epoch": e, "loss": 1 / e, "games": n, "return": result.value - 10 / e} for e, n in enumerate(games, start=1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "result.json").write_text(result.to_json())
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six finished runs; pictures, which take most of the time, are drawn only where they are tested."""
    monkeypatch.setattr(boards, "draw", lambda _, stem: stem.with_suffix(".png"))
    for result in ALL:
        write_run(tmp_path / "runs", result)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def records(results: list[Result], **line: Any) -> list[Record]:
    log = [{"epoch": e, "loss": 1 / e, **{key: e * value for key, value in line.items()}} for e in (1, 2, 3)]
    return [Record(config={}, result=result, log=log, finished="2026-01-01") for result in results]


def test_result_survives_json_and_every_field_has_a_docstring() -> None:
    assert Result.from_json(EARLY.to_json()) == EARLY
    assert [field.name for field in fields(Result)] == list(KINDS)
    source = Path(__file__).parent.parent / "tasks" / "_record.py"
    documented = re.findall(r'^    (\w+): [\w |]+(?: = .+)?\n    """', source.read_text(), re.MULTILINE)
    assert documented == list(KINDS)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", True), ("seed", 1.0), ("value", None), ("value", float("nan")), ("structured", 1), ("device", 3),
     ("pruned_epoch", "2"), ("sparsity_asked", False), ("epochs", None)],
)  # fmt: skip
def test_ill_typed_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"field {field}: expected"):
        replace(EARLY, **{field: value})
    data = json.loads(EARLY.to_json()) | {field: value}
    with pytest.raises(ValueError, match=f"here.json: field {field}"):
        Result.from_json(json.dumps(data), "here.json")


def test_missing_and_unknown_fields_and_bad_json_are_named_with_the_file() -> None:
    data = json.loads(EARLY.to_json())
    with pytest.raises(ValueError, match=r"r\.json: unknown field colour"):
        Result.from_json(json.dumps(data | {"colour": 1}), "r.json")
    del data["macs"]
    with pytest.raises(ValueError, match=r"r\.json: missing field macs"):
        Result.from_json(json.dumps(data), "r.json")
    with pytest.raises(ValueError, match=r"r\.json:2: not JSON"):
        Result.from_json('{"run": 1,\n oops', "r.json")


def test_summary_is_what_one_gets_by_hand() -> None:
    (group,) = groups(ALL)
    lines = summary(group)
    assert list(lines.index) == ["dense", "snip", "earlycrop-s"]
    early = lines.loc["earlycrop-s"]
    # 90, 96, 99: mean 95, squared deviations 25 + 1 + 16 = 42, over n - 1 = 2.
    assert (early["seeds"], early["mean"], early["std"]) == (3, 95.0, pytest.approx(21**0.5))
    assert early["gap"] == 95.0 - 105.0
    assert (early["parameters"], early["batch_ms"], early["pruned_epoch"]) == (120.0, 3.0, 2.0)
    assert early["node_sparsity"] == pytest.approx(0.6)
    assert lines.loc["dense", "std"] == pytest.approx(50**0.5)
    assert lines["rank"].fillna(0).tolist() == [0, 1, 2]
    assert lines["std"].isna().tolist() == [False, True, False]


def test_lower_is_better_turns_the_ranks() -> None:
    (group,) = groups([replace(result, metric="perplexity", higher_is_better=False) for result in ALL])
    assert list(summary(group).index) == ["dense", "earlycrop-s", "snip"]


def test_dense_of_another_recipe_gives_no_gap() -> None:
    for change in ({"epochs": 4}, {"preset": "v1"}, {"dataset": "CartPole-v1"}):
        parts = list(groups([replace(DENSE, **change), EARLY]))
        lines = next(summary(part) for part in parts if "earlycrop-s" in set(part.rows["method"]))
        assert list(lines.index) == ["earlycrop-s"]
        assert np.isnan(lines["gap"].iloc[0])


def test_every_sparsity_has_its_table_with_the_dense_runs() -> None:
    parts = list(groups([DENSE, EARLY, replace(EARLY, run="e9", sparsity_asked=0.5)]))
    assert [sorted(part.rows["run"]) for part in parts] == [["d0", "e9"], ["d0", "e0"]]


def test_times_of_different_devices_are_not_averaged() -> None:
    (group,) = groups([EARLY, replace(EARLY, run="e1", seed=1, device="gpu")])
    assert summary(group)["batch_ms"].isna().all()


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


@pytest.mark.parametrize("newer", [True, False])
def test_of_two_runs_with_one_id_the_newer_is_kept_and_said(place: Path, newer: bool) -> None:
    call(place)
    path = write_run(place / "runs", replace(EARLY, value=12.5)) / "result.json"
    now = path.stat().st_mtime + (100 if newer else -100)
    os.utime(path, (now, now))
    _, said = call(place)
    assert len([line for line in said.splitlines() if line.startswith("run e0: ")]) == 1
    assert ("run e0: replaced" if newer else "run e0: kept") in said
    assert read_records(place / "out")["e0"].result.value == (12.5 if newer else 90.0)
    assert call(place, "check")[0] == 0


def test_collecting_again_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "draw", draw)
    call(place)
    before = {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()}
    for path in (place / "runs").glob("*/result.json"):
        os.utime(path, (1, 1))
    _, said = call(place)
    assert ": 6, new: 0;" in said
    assert {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
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
def test_corrupt_run_is_named_and_nothing_is_written(place: Path, file: str, old: str, new: str, told: str) -> None:
    edit(place / "runs" / "e0" / file, old, new)
    code, said = call(place)
    assert code == 2
    assert re.search(told, said)
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
    monkeypatch.setattr(boards, "draw", lambda _, stem: stem.with_suffix(".png"))

    def finish(i: int) -> None:
        """The later one comes, the faster it is."""

        def slowly(results: Any) -> str:
            text = csv_text(results)
            time.sleep(0.05 * (8 - i))
            return text

        monkeypatch.setattr(boards, "csv_text", slowly)
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


def test_csv_survives_a_crash_of_the_program(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(place)
    before = (place / "out" / "cartpole.csv").read_bytes()
    write_run(place / "runs", replace(EARLY, run="e7", seed=7))

    def fail(source: Path, target: Path) -> None:
        if target.suffix == ".csv":
            raise OSError("disk full")
        os.rename(source, target)

    monkeypatch.setattr("tasks._files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        call(place)
    assert (place / "out" / "cartpole.csv").read_bytes() == before
    assert {path.name for path in (place / "out").glob(".*")} == {".lock"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("return,96.0", "return,97.0", r"cartpole.csv:5: run e1: value is '97.0', but '96.0' in its record"),
        ("\ne1,", "\nzz,", r"cartpole.csv:5: run zz has no record"),
        ("\ne1,", "\ne0,", r"cartpole.csv:5: run e0 is there twice"),
        ("weight_sparsity", "sparseness", r"cartpole.csv:1: the columns"),
        ("0012345,,,,,,,,,,,\n", "0012345,,,,,,,,,,,,extra\n", r"cartpole.csv:2: run d0: beyond the last column"),
    ],
)
def test_check_names_the_line_of_a_tampered_row(place: Path, old: str, new: str, told: str) -> None:
    call(place)
    assert call(place, "check")[0] == 0
    edit(place / "out" / "cartpole.csv", old, new)
    code, said = call(place, "check")
    assert code == 1
    assert re.search(told, said)


@pytest.mark.parametrize(
    ("old", "new", "field", "told"),
    [
        ('"node_sparsity": 0.5', '"node_sparsity": -0.5', "node_sparsity", "not between 0 and 1"),
        ('"macs": 80', '"macs": 0', "macs", "not positive"),
        ('"pruned_epoch": 1', '"pruned_epoch": 4', "pruned_epoch", "not between 0 and 3"),
        ('"sparsity_asked": 0.9', '"sparsity_asked": null', "sparsity_asked", "for method earlycrop-s"),
    ],
)
def test_check_names_the_line_of_a_bad_record(place: Path, old: str, new: str, field: str, told: str) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    edit(path, old, new)
    line = 1 + next(number for number, text in enumerate(path.read_text().splitlines()) if f'"{field}"' in text)
    code, said = call(place, "check")
    assert code == 1
    assert re.search(rf"e0.json:{line}: {field} is .*{told}", said)


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


@pytest.mark.parametrize(("number", "told"), [(34000, "34k"), (999.9, "1k"), (1234567, "1.23M"), (12, "12")])
def test_short_numbers(number: float, told: str) -> None:
    assert short(number) == told


def test_picture_is_a_png_of_sensible_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "draw", draw)
    _, said = call(place)
    path = place / "out" / "cartpole.png"
    assert f"Picture: {path}" in said
    height, width, _ = imread(path).shape
    assert 1500 < width < 2500
    assert 600 < height < 1200
    assert path.with_suffix(".svg").read_text().startswith("<?xml")


def test_picture_has_two_panels_a_recipe_with_the_data() -> None:
    other = [replace(result, run=f"v1{result.run}", dataset="CartPole-v1", preset="v1") for result in ALL]
    picture = figure(records(ALL + other, games=100, **{"return": 7}))
    left, right, below, _ = picture.axes
    assert left.get_title("left").startswith("CartPole-v0, preset default")
    assert left.get_title("left").endswith("1 to 3 seeds")
    assert below.get_title("left").startswith("CartPole-v1, preset v1")
    assert (left.get_xlabel(), right.get_xscale()) == ("games played", "log")
    curves = [line for line in left.lines if len(line.get_xydata()) > 1]  # type: ignore[arg-type]
    assert len(curves) == 3
    for line in curves:
        np.testing.assert_array_equal(line.get_xydata(), [[100, 7], [200, 14], [300, 21]])
    # EarlyCroP's cuts after epochs 1, 2, 3 lie at 200 games on average; SNIP's before training has no mark.
    (mark,) = [line for line in left.lines if len(line.get_xydata()) == 1]  # type: ignore[arg-type]
    np.testing.assert_allclose(mark.get_xydata(), [[200, 14]])  # type: ignore[arg-type]
    assert sorted(len(points.get_offsets()) for points in right.collections) == [1, 2, 3]  # type: ignore[arg-type]
    labels = [text.get_text() for text in picture.legends[0].get_texts()]
    assert labels[:3] == ["dense", "earlycrop-s", "snip"]


@pytest.mark.parametrize(("key", "label"), [("perplexity", "perplexity after the epoch"), ("other", "training loss")])
def test_tasks_without_games_show_the_metric_or_the_loss(key: str, label: str) -> None:
    result = replace(DENSE, task="ptb", metric="perplexity", higher_is_better=False)
    left, right = figure(records([result], **{key: 2})).axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", label)
    assert "lower is better" in right.get_ylabel()


def test_band_covers_only_what_all_seeds_have_reached() -> None:
    one = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    two = (np.array([5.0, 15.0]), np.array([15.0, 25.0]))
    grid, mean, low, high = band([one, two])
    assert grid.tolist() == [5, 10, 15]
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([10, 15, 20], [5, 10, 15], [15, 20, 25])


def test_methods_differ_in_colour_or_line_and_keep_their_looks() -> None:
    methods = {"dense": False, "earlycrop-s": True, "earlycrop-u": False, "snap": True, "snip": False, "mine-s": True}
    looks = method_looks(methods)
    assert len({(look.color, str(look.line)) for look in looks.values()}) == len(methods)
    assert looks["snip"] == method_looks({"snip": False})["snip"]
    assert looks["snip"].color == looks["snap"].color


def test_every_method_is_drawn_without_a_warning() -> None:
    pruned = [replace(EARLY, run=m, method=m, structured=METHODS[m].structured) for m in METHODS if m != "dense"]
    right = figure(records([DENSE, *pruned])).axes[1]
    assert len(right.collections) == len(METHODS)


def test_methods_of_one_size_stand_side_by_side_and_others_where_they_are() -> None:
    shifts = side_by_side({"dense": [1000], "a": [100], "b": [100], "c": [101]})
    assert shifts["dense"] == 1.0
    assert shifts["b"] == 1.0
    assert shifts["a"] * shifts["c"] == pytest.approx(1.0)
    assert shifts["a"] < 1 < shifts["c"]


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
    code, told = call(place, "trigger", "t0")
    assert code == 0
    fired = dict(line.split(": ", 1) for line in told.splitlines())
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
        code, told = call(place, *arguments)
        assert (code, sentence in told) == (2, True), told


def test_variants_of_a_method_are_lines_of_their_own_and_records_may_lack_later_columns(place: Path) -> None:
    old = json.loads(EARLY.to_json())
    del old["variant"], old["epochs_trained"]
    assert Result.from_dict(old) == EARLY
    variants = [replace(EARLY, run=f"v{i}", seed=i, value=50.0 + i, variant="gate columns") for i in range(2)]
    lines = summary(next(iter(groups([*ALL, *variants]))))
    assert set(lines.index) == {"dense", "earlycrop-s", "earlycrop-s (gate columns)", "snip"}
    assert lines.loc["earlycrop-s (gate columns)", "mean"] == 50.5
    assert lines.loc["earlycrop-s", "mean"] == 95.0
