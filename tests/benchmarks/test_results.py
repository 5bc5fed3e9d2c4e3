"""The rows of benchmarks: what the file keeps, what is refused, and how numbers are shown."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.command_line import BenchmarkOptions
from benchmarks.results import ENVIRONMENT, FOLDER, Results, environment, readable, to_cell
from benchmarks.surgeon import FIGURES
from tasks.runner.machine import cpu_model


def results(path: Path) -> Results:
    return Results("toy", BenchmarkOptions(out=path), ["network", "of"], ["seconds", "goal"], ["numpy"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_replaces_the_one_with_the_same_keys_and_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "toy.csv"
    first = results(path)
    first.add({"network": "a", "of": "macs", "seconds": 1.0, "goal": "at most 2"})
    first.add({"network": "b, c", "of": "macs", "seconds": 2.0})
    results(path).add({"network": "a", "of": "macs", "seconds": 0.123456}, threads=7)
    rows = rows_of(path)
    assert [(row["network"], row["seconds"], row["goal"]) for row in rows] == [("a", "0.1235", ""), ("b, c", "2", "")]
    assert [row["threads"] for row in rows] == ["7", str(torch.get_num_threads())]
    assert [p.name for p in path.parent.iterdir()] == ["toy.csv"]


def test_a_row_has_the_machine_and_the_versions(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    results(path).add({"network": "a", "of": "macs", "seconds": 1})
    (row,) = rows_of(path)
    assert tuple(row) == ("network", "of", "seconds", "goal", *ENVIRONMENT)
    assert row["torch"] == torch.__version__
    assert row["cpu"] == cpu_model() != ""
    assert {part.split()[0] for part in row["packages"].split(", ")} == {"earlycrop", "numpy"}
    assert all(environment(["numpy"], 1)[column] for column in ENVIRONMENT)


@pytest.mark.parametrize("text", ["", "network,of\na,b\n", "\n"])
def test_a_file_with_other_columns_is_refused_and_left_alone(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.csv"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        results(path)
    assert stop.value.code == 2
    assert "has other columns than this benchmark writes" in capsys.readouterr().err
    assert path.read_text() == text


def test_a_row_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    results(path).add({"network": "a", "of": "macs", "seconds": 1})
    path.write_text(path.read_text().rpartition(",")[0])
    with pytest.raises(SystemExit):
        results(path)


def test_a_folder_or_a_file_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        results(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        results(tmp_path / "file" / "toy.csv")
    folder, file = capsys.readouterr().err.splitlines()
    assert "is a folder: give the name of a CSV file" in folder
    assert "cannot be written" in file


def test_the_quick_form_writes_no_file_unless_asked_to() -> None:
    assert Results("toy", BenchmarkOptions(quick=True), ["network"], ["seconds"]).path is None
    assert Results("toy", BenchmarkOptions(), ["network"], ["seconds"]).path == FOLDER / "toy.csv"


def test_rows_are_printed_as_columns_where_figures_are_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = results(tmp_path / "toy.csv")
    table.add({"network": "a", "of": "macs", "seconds": 12345.678})
    table.print()
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "seconds" in line] == ["seconds"]
    table.add({"network": "b", "of": "macs", "seconds": 2.0})
    table.print()
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if "network" in line and "of" in line and "goal" in line]
    assert "12,350" in output


def test_numbers_are_shown_with_three_digits_or_separators() -> None:
    assert [to_cell(value) for value in (0.123456, 12345.6, 3, "x", None)] == ["0.1235", "12350", "3", "x", "None"]
    cells = ("0.1235", "12350.5", "61100840", "1.5834e-07", ">300", "at most 6", "")
    assert [readable(cell) for cell in cells] == ["0.123", "12,350", "61,100,840", "1.58e-07", ">300", "at most 6", ""]


def test_the_stored_rows_have_the_columns_that_the_benchmark_writes() -> None:
    rows = rows_of(FOLDER / "surgeon.csv")
    assert tuple(rows[0]) == ("model", "tool", *FIGURES, *ENVIRONMENT)
    assert len({(row["model"], row["tool"]) for row in rows}) == len(rows)
    assert all(row[column] for row in rows for column in ENVIRONMENT)
