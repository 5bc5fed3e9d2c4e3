"""Names and numbers of records that rich, matplotlib and axes would take for something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.leaderboards.commands import call
from tests.leaderboards.results import ALL, edit, write_run

NAMES = {
    "dataset": "[/b] $\\nope$", "network": "[bold]x \\[", "metric": "$x % {x}", "split": "100$ and 5$",
    "device": "<b>&amp; [/]",
}  # fmt: skip


def test_names_are_written_as_they_are(tmp_path: Path) -> None:
    for result in ALL:
        write_run(tmp_path / "runs", replace(result, **NAMES))
    code, output = call(tmp_path, width=400)
    assert code == 0
    assert all(name in output for name in NAMES.values())
    assert call(tmp_path, "page")[0] == 0


@pytest.mark.parametrize(
    ("field", "number"),
    [("value", "1e300"), ("value", "-1e31"), ("value", "1e999"), ("seed", "1" * 400), ("macs", "1" * 5000)],
)
def test_a_number_beyond_any_axis_is_refused(field: str, number: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", ALL[0])
    old = next(line for line in (folder / "result.json").read_text().splitlines() if f'"{field}"' in line)
    edit(folder / "result.json", old, f' "{field}": {number},')
    code, output = call(tmp_path)
    assert code == 1
    assert "result.json:" in output


def test_a_number_at_the_end_of_all_axes_is_drawn(tmp_path: Path) -> None:
    for result, value in zip(ALL, (1e30, -1e30, 0.0, 1e-300, 1.0, 2.0), strict=True):
        write_run(tmp_path / "runs", replace(result, value=value))
    assert call(tmp_path)[0] == 0
