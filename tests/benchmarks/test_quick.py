"""Every benchmark in its quick form, as a process of its own."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks.results import ENVIRONMENT

FOLDER = Path(benchmarks.__file__).parent
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text())
PEERS = {
    "a2c": ("stable_baselines3", "stable-baselines3"),
    "surgeon": ("torch_pruning", "torch-pruning"),
    "trace_time": ("torch_pruning", "torch-pruning"),
}
"""Benchmark -> the peer that it needs: the name to import, and the one to install."""
MAY_BE_ZERO = ("difference", "effect", "certificate_difference")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks.NAME`` in the repository's root."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, timeout=300)


def check_figures(row: dict[str, Any]) -> None:
    """Fail unless the row has numbers, each of them finite and positive."""
    numbers = {}
    for column, value in row.items():
        try:
            numbers[column] = float(value)
        except ValueError:
            continue
    assert numbers, row
    for column, number in numbers.items():
        assert math.isfinite(number), (column, row)
        assert number > 0 or (column in MAY_BE_ZERO and number == 0), (column, row)


def check_file(path: Path) -> None:
    """Fail unless the file has rows of sound figures, with the machine and the versions."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert all(row[column] for column in ENVIRONMENT), row
        assert row.get("can", "yes") == "yes", row
        check_figures({column: value for column, value in row.items() if column not in ENVIRONMENT})


def test_the_benchmarks_are_found() -> None:
    assert {
        "a2c",
        "architectures",
        "bert",
        "core",
        "device",
        "feed",
        "large",
        "lstm",
        "step_time",
        "surgeon",
        "surgeon_one",
        "trace_time",
    } <= set(BENCHMARKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "surgeon_one"])
def test_the_quick_form_writes_sound_figures(name: str, tmp_path: Path) -> None:
    if name in PEERS and find_spec(PEERS[name][0]) is None:
        pytest.skip(f"{PEERS[name][1]} is not installed: pip install '.[bench]'")
    out = tmp_path / f"{name}.csv"
    process = run(name, "--quick", "--out", str(out))
    assert process.returncode == 0, process.stderr
    assert f"written to {out}" in process.stdout
    check_file(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PEERS))
def test_ours_is_measured_without_the_peer(name: str, tmp_path: Path) -> None:
    process = run(name, "--quick", "--tool", "ours", "--out", str(tmp_path / "rows.csv"))
    assert process.returncode == 0, process.stderr
    check_file(tmp_path / "rows.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (module, _) in PEERS.items() if find_spec(module) is None])
def test_a_peer_that_is_not_installed_is_named(name: str, tmp_path: Path) -> None:
    process = run(name, "--quick", "--out", str(tmp_path / "rows.csv"))
    assert process.returncode == 2
    sentence = "is not installed: run pip install '.[bench]', or measure ours alone with --tool ours"
    assert process.stderr == f"error: {PEERS[name][1]} {sentence}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["ours", "peer"])
def test_one_model_and_tool_in_the_quick_form(tool: str) -> None:
    if tool == "peer" and find_spec("torch_pruning") is None:
        pytest.skip("torch-pruning is not installed: pip install '.[bench]'")
    process = run("surgeon_one", "tiny", tool) if tool == "peer" else run("surgeon_one", "--quick")
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout.splitlines()[-1])
    assert figures["can"] == "yes", figures
    assert figures["parameters_left"] < figures["parameters"]
    check_figures(figures)
