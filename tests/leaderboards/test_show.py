"""What is shown of leaderboards: tables, settings that differ, pictures, and sentences where there is nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from leaderboards import build
from leaderboards.plots.learning import draw
from tests.leaderboards.commands import call
from tests.leaderboards.results import ALL, DENSE, write_run


def test_narrow_terminal_cuts_nothing_off(place: Path) -> None:
    wide, narrow = call(place)[1], call(place, "show", width=80)[1]
    (one,) = (line for line in call(place, "show", width=88)[1].splitlines() if " seeds " in line)
    assert "epoch" in one, "columns come nearer before the table becomes two"
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
    _, output = call(place)
    path = place / "out" / "cartpole.png"
    assert f"Picture: {path}" in output
    height, width, _ = imread(path).shape
    assert 1500 < width < 2500
    assert 600 < height < 1200
    assert path.with_suffix(".svg").read_text().startswith("<?xml")


def test_a_run_s_triggers_are_drawn_and_reported(place: Path) -> None:
    """Eight epochs: the window of an early pruning is 2 to 4."""
    folder = write_run(place / "runs", replace(DENSE, run="t0", epochs=8), epochs=8, sparsity=0.9)
    seen = [
        {"distance": 1.0},
        {"distance": 2.0, "unsquared": 0.5, "squared": 2.0, "algorithm1": 0.01, "fall": 0.9, "level": 0.9},
        {"distance": 2.2, "unsquared": 0.2, "squared": 0.9, "algorithm1": 0.01, "fall": 0.3, "level": 0.2},
        {"distance": 2.3, "unsquared": 0.09, "squared": 0.4, "algorithm1": 0.01, "fall": 0.6, "level": 0.1},
        {"distance": 2.3, "unsquared": 0.0, "squared": 0.0, "authors": 0.01, "fall": 0.6, "level": 0.1},
    ]
    seen[2]["per_rate"] = 0.05
    log = [{"epoch": e, "loss": 1.0, "trigger": values} for e, values in enumerate(seen, start=1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    code, output = call(place, "trigger", "t0")
    assert code == 0
    fired = dict(line.split(": ", 1) for line in output.splitlines())
    assert fired.pop("Picture").startswith(str(folder / "trigger.png"))
    never = "not within the window"
    assert fired == {
        "unsquared": "epoch 4", "squared": never, "squared_current": never, "algorithm1": "epoch 2", "authors": never,
        "knee": "epoch 4", "mask_distance": never, "per_rate": "epoch 3",
    }  # fmt: skip
    assert imread(folder / "trigger.png").std() > 0.01
    assert "epoch" in (folder / "trigger.svg").read_text()
    for arguments, sentence in (
        (["trigger", "t9"], "There is no run t9 in"),
        (["trigger", "d0"], "run d0 has no trace of its triggers: train it with --watch"),
    ):
        code, output = call(place, *arguments)
        assert (code, sentence in output) == (2, True), output


def test_task_restricts_what_is_done(place: Path) -> None:
    write_run(place / "runs", replace(DENSE, run="p0", task="ptb", metric="perplexity", higher_is_better=False))
    assert call(place, "--task", "ptb")[0] == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == [".lock", "ptb.csv", "records"]


def test_nothing_to_do_is_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    code, output = call(tmp_path)
    assert code == 2
    assert output == f"error: No finished runs found in {tmp_path / 'runs'}: run `python -m tasks.cartpole` first.\n"
    assert call(tmp_path, "--task", "ptb")[1].endswith("run `python -m tasks.ptb` first.\n")
    assert call(tmp_path, "show")[0] == 2
    assert call(tmp_path, "check")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        call(tmp_path, "--colour", "red")
    assert exit_info.value.code == 2
    assert "--colour" in capsys.readouterr().err
