"""Checking leaderboards: every mistake is named with its file and line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from leaderboards.check import history
from tasks.runner.outcome import commit
from tests.leaderboards.commands import call
from tests.leaderboards.results import ALL, EARLY, edit, write_run


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
    code, output = call(place, "check")
    assert code == 1
    assert re.search(message, output)


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
    code, output = call(place, "check")
    assert code == 1
    assert re.search(rf"e0.json:{line}: {field} is .*{message}", output)


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
    code, output = call(place, "check")
    assert code == 1
    assert re.search(message, output)


def test_masked_networks_compute_what_the_dense_one_does(place: Path) -> None:
    masked = replace(ALL[-1], dense_macs=900, dense_batch_ms=2.0)
    write_run(place / "runs", replace(masked, macs=900))
    call(place)
    assert call(place, "check")[0] == 0
    path = place / "out" / "records" / "cartpole" / "s0.json"
    edit(path, '"dense": 1000', '"costs": {"macs": [900, 90]}, "dense": 1000')
    code, output = call(place, "check")
    assert code == 1
    assert re.search(r"s0.json:\d+: the multiply-accumulates go from 900 to 90 in a pruning of single weights", output)
    edit(path, '"macs": 900', '"macs": 90')
    code, output = call(place, "check")
    assert code == 1
    assert re.search(r"s0.json:\d+: macs is 90 without a node cut, but 900 in the dense network", output)


def test_check_names_a_commit_that_is_not_there(place: Path) -> None:
    call(place)
    path = place / "out" / "records" / "cartpole" / "e0.json"
    now = commit().removesuffix("-dirty")
    for recorded, problem in ((now, False), (f"{now}-dirty", False), ("0" * 40, history() is not None)):
        edit(path, f'"commit": "{json.loads(path.read_text())["result"]["commit"]}"', f'"commit": "{recorded}"')
        call(place, "show")  # its CSV
        code, output = call(place, "check")
        assert code == int(problem)
        assert (
            f"e0.json:{path.read_text()[: path.read_text().index('commit')].count(chr(10)) + 1}: commit" in output
        ) == problem
        assert ("of code that was not committed: e0" in output) == recorded.endswith("dirty")


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
