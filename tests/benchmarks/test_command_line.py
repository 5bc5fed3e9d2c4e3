"""The benchmarks' options, and what is refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.command_line import BenchmarkOptions, parse, require_installed, require_known


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    repeats: int = 7
    names: tuple[str, ...] = ("a", "b")
    sizes: tuple[int, ...] = (1, 2)
    batch: int | None = None


def parsed(*arguments: str) -> Options:
    return parse("toy", Options(), Options(repeats=1, names=("a",)), "A toy.", arguments)


def test_quick_changes_the_defaults_and_nothing_that_is_given() -> None:
    assert parsed() == Options()
    assert parsed("--quick") == Options(quick=True, repeats=1, names=("a",))
    assert parsed("--repeats", "3", "--quick") == Options(quick=True, repeats=3, names=("a",))
    assert parsed("--out", "rows.csv").out == Path("rows.csv")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--repeats", "0"], "error: --repeats must be at least 1, and is 0"),
        (["--quick", "--sizes", "3", "-1"], "error: --sizes must be at least 1, and is -1"),
        (["--batch", "0"], "error: --batch must be at least 1, and is 0"),
        (["--names"], "error: --names is empty: give at least one"),
    ],
)
def test_what_is_out_of_range_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(*arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_unknown_options_are_refused() -> None:
    with pytest.raises(SystemExit) as stop:
        parsed("--quik")
    assert stop.value.code == 2


def test_what_is_not_installed_or_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    require_installed("torch", "torch", "wait")
    require_known("--names", ["a"], ["a", "b"])
    with pytest.raises(SystemExit):
        require_installed("no_such_module", "no-such-package", "do without")
    with pytest.raises(SystemExit):
        require_known("--names", ["a", "c"], ["a", "b"])
    assert capsys.readouterr().err.splitlines() == [
        "error: no-such-package is not installed: run pip install '.[bench]', or do without",
        "error: --names does not know c: take one or more of a, b",
    ]
