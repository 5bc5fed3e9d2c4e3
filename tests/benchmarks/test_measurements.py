"""What the benchmarks compute without a clock: turns, comparisons, random images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import surgeon, timing
from benchmarks.random_images import cifar10_data
from tasks.vision.images import read


def test_functions_are_called_in_turn_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]
    cost = {"a": iter([100, 1, 3, 2]), "b": iter([100, 10, 30, 20])}

    def call(name: str) -> None:
        calls.append(name)
        clock[0] += next(cost[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.in_turn(lambda: call("a"), lambda: call("b"), repeats=3) == [2, 20]
    assert calls == ["a", "b"] * 4


def test_tools_are_compared_where_both_can() -> None:
    def row(model: str, tool: str, *seconds: float, can: str = "yes") -> dict[str, str]:
        names = ("trace_seconds", "cut_seconds", "certified_seconds")
        return {"model": model, "tool": tool, "can": can, **dict(zip(names, map(str, seconds), strict=False))}

    rows = [
        row("a", "ours", 1, 1, 3), row("a", "peer", 2, 2), row("b", "ours", 2, 4, 6), row("b", "peer", 1, 2),
        row("c", "ours", 0.5, 1, 2), row("c", "peer", can="no"),
    ]  # fmt: skip
    assert surgeon.compare(rows).splitlines() == [
        "can: ours 3, the peer 2 of 3; traces above 1 s: 1 b",
        "trace + cut over the peer's, where both can (2): median 1.25, largest 2.00; slower on 1 b",
        "trace + certified over the peer's, where both can (2): median 1.83, largest 2.67; slower on 1 b",
    ]
    assert surgeon.compare(rows[:1]) == "can: ours 1, the peer 0 of 1; traces above 1 s: 0"


@pytest.mark.parametrize(
    ("code", "figures"),
    [
        ('print(\'{"can": "yes", "stage": "x", "size": 3}\')', {"can": "yes", "size": 3}),
        ("pass", {"can": "no"}),
        (
            'print(\'{"can": "no", "stage": "cut"}\'); raise SystemExit(9)',
            {"can": "no", "why": "the process ended with code 9 in the cut"},
        ),
        (
            'import os, signal; print(\'{"can": "no", "stage": "cut"}\', flush=True); '
            "os.kill(os.getpid(), signal.SIGALRM)",
            {"can": "no", "why": "more than 5 s in the cut", "cut_seconds": ">5"},
        ),
    ],
)
def test_the_last_line_counts_whatever_ends_a_process(
    code: str, figures: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        assert command[1:] == ["-m", "benchmarks.surgeon_one", "resnet18", "ours", "--timeout", "5"]
        return original([sys.executable, "-c", code], **options)

    monkeypatch.setattr(surgeon.subprocess, "run", run)
    assert surgeon.measure_once("resnet18", "ours", 5) == figures


def test_the_median_of_processes_counts_where_the_first_can(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(surgeon, "measure_once", lambda *_: {"can": "yes", "cut_seconds": next(seconds), "peak_mb": 5})
    assert surgeon.measure("a", "ours", 5, 3) == {"can": "yes", "cut_seconds": 2.0, "peak_mb": 5, "repeats": 3}
    monkeypatch.setattr(surgeon, "measure_once", lambda *_: {"can": "no", "cut_seconds": ">5"})
    assert surgeon.measure("a", "ours", 5, 3) == {"can": "no", "cut_seconds": ">5", "repeats": 3}


def test_random_images_are_a_data_set_of_the_task() -> None:
    with cifar10_data(None, quick=True) as folder:
        train, test = read(folder, "CIFAR-10")
        assert len(train) == len(test) == 40
        assert len(train.classes) == 10
        assert train.rgb(0).size == (32, 32)
    assert not Path(folder).exists()
    for data, quick, expected in ((None, False, "uoft-cs/cifar10"), ("a", True, "a"), ("a", False, "a")):
        with cifar10_data(data, quick) as given:
            assert given == expected
