"""A study's results beside the paper's: ``python -m leaderboards show table1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from leaderboards.table import decimals, frame, labels
from tasks.runner.result import Result

PAPER = Path(__file__).parent / "paper"
KEYS = ["dataset", "network", "epochs"]
"""What runs and the paper's rows share that stand in one table."""
PAIRS = 3
"""Least seeds that two methods must share for a paired test."""


def paper(name: str) -> pd.DataFrame:
    """The paper's table of that name, in our units; without a row where the paper has no such table."""
    path = PAPER / f"{name}.csv"
    columns = [*KEYS, "method", "variant", "sparsity_asked"]
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    return rows.assign(variant=rows["variant"].fillna("") if "variant" in rows else "")


class Lines(NamedTuple):
    """A table of ours beside the paper's: its title, a line a method, and the runs of ours that it is made of."""

    title: str
    table: pd.DataFrame
    runs: pd.DataFrame


def lines(results: Iterable[Result], theirs: pd.DataFrame) -> Iterator[Lines]:
    """The tables of each data set, network, number of epochs and asked sparsity that either has.

    Where the paper does not tell its epochs, it stands beside ours of any. A variant of a method is there where the
    paper has it, or has no such table. ``ours``, ``theirs``: the metric's mean; ``..._std`` its sample deviation over
    seeds; ``..._gap`` the difference to dense *of the same column*; ``..._place`` the rank among methods that prune.
    ``seeds``, and mean ``hours`` of training where they are of one device: ours.
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
    for name, column in (("theirs", "value"), ("theirs_std", "std")):
        table[name] = (
            their_rows.set_index("method")[column].groupby(level=0).first() if len(their_rows) else float("nan")
        )
    higher = bool(our_rows["higher_is_better"].iloc[0]) if len(our_rows) else metric not in ("perplexity", "rmse")
    for who in ("ours", "theirs"):
        table[f"{who}_gap"] = table[who] - table[who].get("dense", float("nan"))
        pruned = table.index != "dense"
        table[f"{who}_place"] = table.loc[pruned, who].rank(ascending=not higher, method="min")
    return table


def _keys(our_rows: pd.DataFrame, theirs: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    """Theirs and then ours, each once; theirs without epochs has those of ours that it stands beside."""
    ours = list(dict.fromkeys(our_rows[KEYS].itertuples(index=False, name=None)))
    keys: list[tuple[Any, ...]] = []
    for dataset, network, epochs in theirs[KEYS].itertuples(index=False, name=None):
        beside = [key for key in ours if key[:2] == (dataset, network)] if pd.isna(epochs) else []
        keys += beside or [(dataset, network, None if pd.isna(epochs) else int(epochs))]
    return dict.fromkeys([*keys, *ours])


def paired(comparison: Lines) -> str | None:
    """What a paired t-test over shared seeds says of the best of ours against the runner-up; None without enough."""
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
    """Print the study's tables; raises ValueError where neither we nor the paper have anything.

    ``price``: what an hour of training costs, for a column of our runs' costs (the paper's appendix A).
    """
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
            console.print(test, style="dim")
    for note, rows in theirs.groupby("note", sort=False) if "note" in theirs else ():
        concerned = ", ".join(dict.fromkeys(f"{r.method} ({r.dataset})" for r in rows.itertuples()))
        console.print(f"the paper, {concerned}: {note}", style="dim")


def _table(title: str, lines: pd.DataFrame, price: float | None) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    ours = ("ours", "gap", "seeds") if price is None else ("ours", "gap", "seeds", "cost")
    both = bool(lines["theirs"].notna().any())
    for column in ("method", *ours, *(("the paper", "gap") if both else ())):
        table.add_column(column, justify="left" if column == "method" else "right")
    top = lines[["ours", "theirs"]].abs().max().max()
    digits = decimals(top)
    for method, row in lines.iterrows():
        cells: list[Any] = [str(method)]
        for who in ("ours", "theirs") if both else ("ours",):
            spread = "" if pd.isna(row[f"{who}_std"]) else f" ± {row[f'{who}_std']:.{digits}f}"
            value = "-" if pd.isna(row[who]) else f"{row[who]:.{digits}f}{spread}"
            style = {1: "[bold]", 2: "[underline]"}.get(row[f"{who}_place"], "")
            gap = "-" if pd.isna(row[f"{who}_gap"]) else f"{row[f'{who}_gap']:+.{digits}f}"
            cells += [f"{style}{value}", gap]
            if who == "ours":
                cells.append("-" if pd.isna(row["seeds"]) else str(int(row["seeds"])))
                if price is not None:
                    cells.append("-" if pd.isna(row["hours"]) else f"{price * row['hours']:.4g}")
        table.add_row(*cells)
    return table
