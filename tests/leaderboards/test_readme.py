"""README's tables of results: those of the committed CSVs, and what is said where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from leaderboards import readme
from leaderboards.records import read_records
from leaderboards.table import csv_text
from tests.leaderboards.commands import call
from tests.leaderboards.results import edit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """README with the CSVs that its tables are made of."""
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "out" / "tables").mkdir(parents=True)
    for name in ("scores.csv", "kitchen.csv", "minilm.csv"):
        shutil.copy(ROOT / "leaderboards" / "tables" / name, tmp_path / "out" / "tables")
    return tmp_path


def test_the_committed_tables_are_what_the_csvs_say() -> None:
    assert list(readme.problems(ROOT / "README.md", ROOT / "leaderboards")) == []
    assert {place["name"] for place in readme.PLACE.finditer((ROOT / "README.md").read_text())} == set(readme.TABLES)


def test_every_form_of_the_study_has_its_row() -> None:
    study = pd.read_csv(ROOT / "leaderboards" / "tables" / "scores.csv")
    assert set(study["method"]) == set(readme.FORMS)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("README.md", "| `random-s` | 47.7 ±", "| `random-s` | 49.7 ±", "table scores is not what the CSVs say"),
        ("out/tables/scores.csv", ",169.602,", ",150.5,", "table scores is not what the CSVs say"),
        ("out/tables/minilm.csv", ",0.180138,", ",0.190138,", "table minilm is not what the CSVs say"),
        ("README.md", "<!-- table: scores", "<!-- table: marks", "there is no table marks: it is one of"),
    ],
)  # fmt: skip
def test_a_stale_table_is_named_and_made_again(place: Path, file: str, old: str, new: str, message: str) -> None:
    before = (place / "README.md").read_text()
    assert list(readme.problems(place / "README.md", place / "out")) == []
    edit(place / file, old, new)
    (problem,) = readme.problems(place / "README.md", place / "out")
    assert problem.startswith(f"{place / 'README.md'}: {message}")
    if "there is no" in message:
        assert call(place, "tables")[0] == 2
        return
    assert call(place, "tables")[0] == 0
    assert list(readme.problems(place / "README.md", place / "out")) == []
    assert ((place / "README.md").read_text() == before) == (file == "README.md")


def test_check_fails_for_a_stale_table(place: Path) -> None:
    shutil.copytree(ROOT / "leaderboards" / "records" / "nyu", place / "out" / "records" / "nyu")
    results = (record.result for record in read_records(place / "out").values())
    (place / "out" / "nyu.csv").write_text(csv_text(results))
    assert call(place, "check", "--task", "nyu")[0] == 0
    edit(place / "README.md", "| `random-s` | 47.7", "| `random-s` | 48.7")
    code, output = call(place, "check", "--task", "nyu")
    assert (code, "run `make tables`" in output) == (1, True)


def test_what_is_missing_is_one_sentence(place: Path) -> None:
    (place / "out" / "tables" / "scores.csv").unlink()
    with pytest.raises(ValueError, match=r"scores.csv: missing$"):
        readme.write(place / "README.md", place / "out")
    study = pd.read_csv(ROOT / "leaderboards" / "tables" / "scores.csv")
    study[study["task"] != "ptb"].to_csv(place / "out" / "tables" / "scores.csv")
    with pytest.raises(
        ValueError, match=r"scores.csv: README's table needs results of dense for ptb, and there are none"
    ):
        readme.scores(place / "out")
    kitchen = pd.read_csv(place / "out" / "tables" / "kitchen.csv")
    kitchen[kitchen["method"] != "dense"].to_csv(place / "out" / "tables" / "kitchen.csv")
    tables = place / "out" / "tables"
    minilm = pd.read_csv(tables / "minilm.csv")
    minilm[(minilm["method"] != "dense") | (minilm["dataset"] != "RTE")].to_csv(tables / "minilm.csv")
    with pytest.raises(ValueError, match=r"minilm.csv: README's table needs results of dense for RTE, and there are"):
        readme.minilm(place / "out")
    with pytest.raises(
        ValueError, match=r"kitchen.csv: README's table needs results of dense for 0.9, 0.99, and there are none"
    ):
        readme.kitchen(place / "out")
    (place / "README.md").write_text("no tables\n")
    with pytest.raises(ValueError, match=r"README.md: has no place for a table"):
        readme.write(place / "README.md", place / "out")
    (place / "README.md").unlink()
    assert list(readme.problems(place / "README.md", place / "out")) == []
    assert call(place, "tables")[0] == 2
