"""A study's results beside the paper's: gaps, places, the paired test, and the paper's numbers themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from leaderboards import paper_comparison
from leaderboards.paper_comparison import PAPER, lines, paired, paper
from tests.leaderboards.results import DENSE, EARLY

TABLES = sorted(path.stem for path in PAPER.glob("*.csv"))


def runs(method: str, values: list[float]) -> list:
    base = DENSE if method == "dense" else replace(EARLY, method=method)
    shared = {"dataset": "CIFAR-10", "network": "resnet18", "epochs": 80, "metric": "accuracy"}
    return [replace(base, run=f"{method}{i}", seed=i, value=v, **shared) for i, v in enumerate(values)]


OURS = runs("dense", [0.95, 0.96]) + runs("snap", [0.8, 0.9, 0.91]) + runs("crop-s", [0.7, 0.8, 0.84])


def test_means_gaps_and_places_by_hand() -> None:
    ((title, table, _),) = lines(OURS, paper("table1"))
    assert title == "CIFAR-10, resnet18, 80 epochs, accuracy"
    assert table.loc["snap", ["ours", "seeds"]].tolist() == pytest.approx([0.87, 3])
    assert table.loc["snap", "ours_gap"] == pytest.approx(0.87 - 0.955)
    assert table.loc["earlycrop-s", ["theirs", "theirs_std"]].tolist() == [0.91, 0.0052]
    assert table.loc["earlycrop-s", "theirs_gap"] == pytest.approx(-0.005)
    assert table["ours_place"].dropna().to_dict() == {"snap": 1, "crop-s": 2}
    assert table["theirs_place"].idxmin() == "ltr"
    assert pd.isna(table.loc["dense", "theirs_place"])


def test_the_paired_test_is_the_textbook_s() -> None:
    """Differences .1, .1, .07: mean .09, standard error .01, so t = 9 with two degrees of freedom: p = .0121."""
    (comparison,) = lines(OURS, paper("table1"))
    assert paired(comparison) == "snap against crop-s, paired over 3 seeds: p = 0.012"
    fewer = [r for r in OURS if r.seed < 2]
    (comparison,) = lines(fewer, paper("table1"))
    assert paired(comparison) is None


def test_sparsities_are_not_averaged() -> None:
    more = [replace(r, run=f"more{r.run}", sparsity_asked=0.5, value=r.value / 2) for r in OURS if r.method != "dense"]
    low, high = lines([*OURS, *more], paper("none"))
    assert (low.title, high.title) == (
        "CIFAR-10, resnet18, 80 epochs, accuracy, 50 % cut",
        "CIFAR-10, resnet18, 80 epochs, accuracy, 90 % cut",
    )
    assert low.table.loc["snap", ["ours", "seeds"]].tolist() == pytest.approx([0.435, 3])
    assert high.table.loc["snap", ["ours", "seeds"]].tolist() == pytest.approx([0.87, 3])
    assert low.table.loc["dense", "ours"] == high.table.loc["dense", "ours"] == pytest.approx(0.955)


def test_variants_are_there_where_the_paper_has_them_or_has_no_table() -> None:
    variant = [replace(r, run=f"v{r.run}", variant="gate rows") for r in OURS if r.method == "snap"]
    ((_, table, _),) = lines([*OURS, *variant], paper("table1"))
    assert "snap (gate rows)" not in table.index
    ((_, table, _),) = lines([*OURS, *variant], paper("none"))
    assert table.loc["snap (gate rows)", "ours"] == table.loc["snap", "ours"]


@pytest.mark.parametrize("name", TABLES)
def test_the_paper_s_numbers_are_in_range(name: str) -> None:
    table = paper(name)
    for column in ("sparsity_asked", "weight_sparsity", "node_sparsity", "value"):
        assert table[column].dropna().between(0, 1).all()
    assert (table["method"] == "dense").any()
    assert table.loc[table["method"] == "dense", "sparsity_asked"].isna().all()


def test_the_paper_s_disk_is_what_its_code_computes() -> None:
    """34 bits a weight: ResNet18's 11.7 M and VGG16's 50.7 M weights."""
    for name, weights in (("table1", 11.70e6), ("table2", 50.69e6)):
        table = paper(name).set_index("method")
        assert table.loc["dense", "disk_bytes"] == pytest.approx(weights * 34 / 8, rel=0.01)


def test_what_is_printed(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as file:
        paper_comparison.show("table1", OURS, Console(file=file, width=100))
    output = (tmp_path / "output").read_text()
    assert "0.8700 ± 0.0608" in output
    assert "snap against crop-s, paired over 3 seeds: p = 0.012" in output
    assert "the paper, cropit-s (CIFAR-10): a batch time of 0.48 ms is a slip" in " ".join(output.split())
    with pytest.raises(ValueError, match="Nothing was run of scores, and the paper has no such table"):
        paper_comparison.show("scores", [], Console(file=None))
