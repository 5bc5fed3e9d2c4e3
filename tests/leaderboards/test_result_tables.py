"""The tables of results in README and docs: those of the committed CSVs, and what is said where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from leaderboards import result_tables
from leaderboards.records import read_records
from leaderboards.table import csv_text
from tests.leaderboards.commands import call
from tests.leaderboards.results import edit

ROOT = Path(__file__).parents[2]
PAGE = "docs/results.md"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The pages with the CSVs that their tables are made of."""
    (tmp_path / "docs").mkdir()
    for page in result_tables.PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / "out" / "tables").mkdir(parents=True)
    for file in (ROOT / "leaderboards" / "tables").glob("*.csv"):
        shutil.copy(file, tmp_path / "out" / "tables")
    return tmp_path


def test_the_committed_tables_are_what_the_csvs_say() -> None:
    assert list(result_tables.problems(ROOT, ROOT / "leaderboards")) == []
    text = "".join((ROOT / page).read_text() for page in result_tables.PAGES)
    assert {place["name"] for place in result_tables.PLACE.finditer(text)} == set(result_tables.TABLES)


def test_every_form_of_the_study_has_its_row() -> None:
    study = pd.read_csv(ROOT / "leaderboards" / "tables" / "scores.csv")
    assert set(study["method"]) == set(result_tables.FORMS)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (PAGE, "| `random-s` | 47.7 ± 1.8", "| `random-s` | 49.7 ± 1.8", "table scores is not what the CSVs say"),
        ("README.md", "| `magnitude-s` 69.6 ±", "| `magnitude-s` 79.6 ±", "table overview is not what the CSVs say"),
        ("out/tables/scores.csv", ",0.471033,", ",0.481033,", "table scores is not what the CSVs say"),
        ("out/tables/minilm.csv", ",0.180138,", ",0.190138,", "table minilm is not what the CSVs say"),
        (PAGE, "<!-- table: scores", "<!-- table: marks", "there is no table marks: it is one of"),
    ],
)  # fmt: skip
def test_a_stale_table_is_named_and_made_again(place: Path, file: str, old: str, new: str, message: str) -> None:
    before = [(place / page).read_text() for page in result_tables.PAGES]
    assert list(result_tables.problems(place, place / "out")) == []
    edit(place / file, old, new)
    (problem,) = result_tables.problems(place, place / "out")
    page = "README.md" if file == "README.md" else PAGE
    assert problem.startswith(f"{place / page}: {message}")
    if "there is no" in message:
        assert call(place, "tables")[0] == 2
        return
    assert call(place, "tables")[0] == 0
    assert list(result_tables.problems(place, place / "out")) == []
    after = [(place / page).read_text() for page in result_tables.PAGES]
    assert (after == before) == (file in result_tables.PAGES)


def test_check_fails_for_a_stale_table(place: Path) -> None:
    shutil.copytree(ROOT / "leaderboards" / "records" / "nyu", place / "out" / "records" / "nyu")
    results = (record.result for record in read_records(place / "out").values())
    (place / "out" / "nyu.csv").write_text(csv_text(results))
    assert call(place, "check", "--task", "nyu")[0] == 0
    edit(place / PAGE, "| `random-s` | 47.7", "| `random-s` | 48.7")
    code, output = call(place, "check", "--task", "nyu")
    assert (code, "run `make tables`" in output) == (1, True)


def test_what_is_missing_is_one_sentence(place: Path) -> None:
    (place / "out" / "tables" / "scores.csv").unlink()
    with pytest.raises(ValueError, match=r"scores.csv: missing$"):
        result_tables.write(place, place / "out")
    study = pd.read_csv(ROOT / "leaderboards" / "tables" / "scores.csv")
    study[study["task"] != "ptb"].to_csv(place / "out" / "tables" / "scores.csv")
    with pytest.raises(ValueError, match=r"scores.csv: its table needs results of dense for ptb, and there are none"):
        result_tables.scores(place / "out")
    kitchen = pd.read_csv(place / "out" / "tables" / "kitchen.csv")
    kitchen[kitchen["method"] != "dense"].to_csv(place / "out" / "tables" / "kitchen.csv")
    tables = place / "out" / "tables"
    minilm = pd.read_csv(tables / "minilm.csv")
    minilm[(minilm["method"] != "dense") | (minilm["dataset"] != "RTE")].to_csv(tables / "minilm.csv")
    with pytest.raises(ValueError, match=r"minilm.csv: its table needs results of dense for RTE, and there are"):
        result_tables.minilm(place / "out")
    with pytest.raises(
        ValueError, match=r"kitchen.csv: its table needs results of dense for 0.9, 0.99, and there are none"
    ):
        result_tables.kitchen(place / "out")
    (place / "README.md").write_text("no tables\n")
    with pytest.raises(ValueError, match=r"README.md: has no place for a table"):
        result_tables.write(place, place / "out")
    for page in result_tables.PAGES:
        (place / page).unlink()
    assert list(result_tables.problems(place, place / "out")) == []
    assert call(place, "tables")[0] == 2
