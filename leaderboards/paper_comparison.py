"""A study's results beside the paper's: ``python -m leaderboards show table1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leaderboards.table import (
    Columns,
    at_cap,
    cap_note,
    cells,
    decimals,
    frame,
    is_dense,
    labels,
    rich_table,
    with_spread,
)
from tasks.runner.result import Result

PAPER = Path(__file__).parent / "paper"
KEYS = ["dataset", "network", "epochs"]
"""Columns in which the runs and the paper's rows of one table agree."""
PAIRS = 3
"""How many seeds two methods must share for a paired test."""


def paper(name: str) -> pd.DataFrame:
    """Return the paper's table of that name, in our units; without a row if the paper has no such table."""
    path = PAPER / f"{name}.csv"
    columns = [*KEYS, "method", "variant", "sparsity_asked", "value", "std"]
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    return rows.assign(variant=rows["variant"].fillna("") if "variant" in rows else "")


class Lines(NamedTuple):
    """A table of our results beside the paper's: its title, a line a method, and our runs in it."""

    title: str
    table: pd.DataFrame
    runs: pd.DataFrame


def lines(results: Iterable[Result], theirs: pd.DataFrame) -> Iterator[Lines]:
    """Yield a table for each data set, network, number of epochs and asked sparsity that either has.

    The columns ``ours`` and ``theirs`` are means of the metric; ``..._std`` their sample deviations over seeds;
    ``..._gap`` the differences to dense *of the same column*; ``..._place`` the ranks among methods that prune.
    ``seeds`` and ``hours`` of training (of one device) are ours. Rows of the paper without epochs stand beside ours of
    any. A variant of a method is included if the paper has it, or has no such table.
    """
    our_rows, theirs = (rows.assign(method=labels(rows)) for rows in (frame(results), theirs))
    if len(theirs):
        our_rows = our_rows[(our_rows["variant"] == "") | our_rows["method"].isin(theirs["method"])]
    for key in _keys(our_rows, theirs):
        our_part, their_part = (
            part[((part[KEYS] == list(key)) | part[KEYS].isna()).all(axis=1)] for part in (our_rows, theirs)
        )
        metric = (our_part if len(our_part) else their_part)["metric"].iloc[0]
        epochs = "" if pd.isna(key[2]) else f"{key[2]} epochs, "
        title = f"{key[0]}, {key[1]}, {epochs}{metric}"
        asked = sorted(our_part["sparsity_asked"].dropna().unique())
        if len(asked) < 2:
            yield Lines(title, _lines(our_part, their_part, metric), our_part)
            continue
        for sparsity in asked:
            ours, paper_s = (
                part[part["sparsity_asked"].isna() | (part["sparsity_asked"] - sparsity).abs().lt(1e-6)]
                for part in (our_part, their_part)
            )
            yield Lines(f"{title}, {100 * sparsity:.4g} % cut", _lines(ours, paper_s, metric), ours)


def _lines(our_rows: pd.DataFrame, their_rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    table = pd.DataFrame(index=list(dict.fromkeys([*their_rows["method"], *our_rows["method"]])))
    by_method = our_rows.groupby("method")
    by_seed = our_rows.groupby(["method", "seed"])["value"].mean().groupby("method")  # runs of one seed count as one
    table["ours"], table["ours_std"], table["seeds"] = by_seed.mean(), by_seed.std(), by_seed.size()
    table["hours"] = by_method["train_seconds"].mean().where(by_method["device"].nunique() == 1) / 3600
    capped = by_method["pruned_why"].agg(lambda reasons: reasons.map(at_cap).sum())
    sizes = by_method.size()
    table["note"] = [cap_note(int(capped.get(m, 0)), int(sizes.get(m, 0))) for m in table.index]
    theirs = their_rows.groupby("method")[["value", "std"]].first().astype(float)
    table["theirs"], table["theirs_std"] = theirs["value"], theirs["std"]
    higher = bool(our_rows["higher_is_better"].iloc[0]) if len(our_rows) else metric not in ("perplexity", "rmse")
    for who in ("ours", "theirs"):
        table[f"{who}_gap"] = table[who] - table[who].get("dense", float("nan"))
        table[f"{who}_place"] = table.loc[~is_dense(table.index), who].rank(ascending=not higher, method="min")
    return table


def _keys(our_rows: pd.DataFrame, theirs: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    """Return theirs and then ours, each once; theirs without epochs become those of ours."""
    ours = list(dict.fromkeys(our_rows[KEYS].itertuples(index=False, name=None)))
    keys: list[tuple[Any, ...]] = []
    for dataset, network, epochs in theirs[KEYS].itertuples(index=False, name=None):
        beside = [key for key in ours if key[:2] == (dataset, network)] if pd.isna(epochs) else []
        keys += beside or [(dataset, network, None if pd.isna(epochs) else int(epochs))]
    return dict.fromkeys([*keys, *ours])


def paired(comparison: Lines) -> str | None:
    """Compare our best method with the second by a paired t-test over shared seeds; None if they share too few."""
    places = comparison.table["ours_place"].dropna().sort_values(kind="stable")
    if len(places) < 2:
        return None
    first, second = places.index[:2]
    by_method = comparison.runs.pivot_table(index="seed", columns="method", values="value")
    values = by_method[[first, second]].dropna()
    if len(values) < PAIRS:
        return None
    if (values[first] == values[second]).all():
        return f"{first} and {second} are equal on all {len(values)} seeds"
    from scipy.stats import ttest_rel  # here, as that takes longer than most commands

    p = float(ttest_rel(values[first], values[second]).pvalue)
    return f"{first} against {second}, paired over {len(values)} seeds: p = {p:.2g}"


def show(name: str, results: list[Result], console: Console, price: float | None = None) -> None:
    """Print the study's tables, with our costs at a ``price`` an hour as in the paper's appendix A."""
    theirs = paper(name)
    if not results and theirs.empty:
        raise ValueError(
            f"Nothing was run of {name}, and the paper has no such table: run it with sweep {name}, or give the --data "
            "that it was run with."
        )
    for part in lines(results, theirs):
        console.print(_table(f"{name}: {part.title}", part.table, price))
        caption = "best in bold, second underlined; gap: to dense of the same column; ± sample deviation over seeds"
        console.print(caption, style="dim")
        if (test := paired(part)) is not None:
            console.print(test, style="dim", markup=False)
    for note, rows in theirs.groupby("note", sort=False) if "note" in theirs else ():
        concerned = ", ".join(dict.fromkeys(f"{r.method} ({r.dataset})" for r in rows.itertuples()))
        console.print(f"the paper, {concerned}: {note}", style="dim", markup=False)


def _table(title: str, lines: pd.DataFrame, price: float | None) -> Table:
    both = bool(lines["theirs"].notna().any())
    digits = decimals(lines[["ours", "theirs"]].abs().max().max())
    columns: Columns = [("method", [method + note for method, note in lines["note"].items()])]
    for who, head in (("ours", "ours"), ("theirs", "the paper"))[: 1 + both]:
        styles = [{1: "bold", 2: "underline"}.get(place, "") for place in lines[f"{who}_place"]]
        values = with_spread(lines[who], lines[f"{who}_std"], digits)
        columns.append((head, [Text(value, style) for style, value in zip(styles, values, strict=True)]))
        columns.append(("gap", cells(lines[f"{who}_gap"], f"+.{digits}f")))
        if who == "ours":
            columns.append(("seeds", cells(lines["seeds"], ".0f")))
            columns += [("cost", cells(lines["hours"], ".4g", price))] if price is not None else []
    return rich_table(title, columns)
