"""A study's results beside the paper's: ``python -m leaderboards show table1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_rel

from leaderboards.table import frame
from tasks._record import Result

PAPER = Path(__file__).parent / "paper"
PAIRS = 3
"""Least seeds that two methods must share for a paired test."""


def paper(name: str) -> pd.DataFrame:
    """The paper's table of that name, in our units; without a row where the paper has no such table."""
    path = PAPER / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["dataset", "network", "method", "epochs"])


def lines(results: Iterable[Result], theirs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and lines, by method, of each data set, network and number of epochs that either has.

    ``ours``, ``theirs``: the metric's mean; ``..._std`` its sample deviation over seeds; ``..._gap`` the difference to
    dense *of the same column*; ``..._place`` the rank among the methods that prune. ``seeds``: ours.
    """
    mine = frame(results)
    mine = mine[mine["variant"] == ""]
    keys = ["dataset", "network", "epochs"]
    for key in dict.fromkeys([*map(tuple, theirs[keys].to_numpy()), *map(tuple, mine[keys].to_numpy())]):
        here, there = (part[(part[keys] == list(key)).all(axis=1)] for part in (mine, theirs))
        table = pd.DataFrame(index=list(dict.fromkeys([*there["method"], *here["method"]])))
        by_method = here.groupby("method")["value"]
        table["ours"], table["ours_std"], table["seeds"] = by_method.mean(), by_method.std(), by_method.size()
        for name, column in (("theirs", "value"), ("theirs_std", "std")):
            table[name] = there.set_index("method")[column].groupby(level=0).first() if len(there) else float("nan")
        metric = (here if len(here) else there)["metric"].iloc[0]
        higher = bool(here["higher_is_better"].iloc[0]) if len(here) else metric not in ("perplexity", "rmse")
        for who in ("ours", "theirs"):
            table[f"{who}_gap"] = table[who] - table[who].get("dense", float("nan"))
            pruned = table.index != "dense"
            table[f"{who}_place"] = table.loc[pruned, who].rank(ascending=not higher, method="min")
        yield f"{key[0]}, {key[1]}, {key[2]} epochs, {metric}", table


def paired(results: Iterable[Result], table: pd.DataFrame) -> str | None:
    """What a paired t-test over shared seeds says of the best of ours against the runner-up; None without enough."""
    places = table["ours_place"].dropna().sort_values(kind="stable")
    if len(places) < 2:
        return None
    first, second = places.index[:2]
    values = frame(results).pivot_table(index="seed", columns="method", values="value")[[first, second]].dropna()
    if len(values) < PAIRS:
        return None
    if (values[first] == values[second]).all():
        return f"{first} and {second} are equal on all {len(values)} seeds"
    p = float(ttest_rel(values[first], values[second]).pvalue)
    return f"{first} against {second}, paired over {len(values)} seeds: p = {p:.2g}"


def show(name: str, results: list[Result], console: Console) -> None:
    """Print the study's tables; raises ValueError where neither we nor the paper have anything."""
    theirs = paper(name)
    if not results and theirs.empty:
        raise ValueError(f"Nothing was run of {name}, and the paper has no such table: run it with sweep {name}.")
    for title, table in lines(results, theirs):
        part = [r for r in results if title.startswith(f"{r.dataset}, {r.network}, {r.epochs} epochs")]
        console.print(_table(f"{name}: {title}", table))
        told = "best in bold, second underlined; gap: to dense of the same column; ± sample deviation over seeds"
        console.print(told, style="dim")
        if (test := paired(part, table)) is not None:
            console.print(test, style="dim")
    for _, row in theirs[theirs["note"].notna()].iterrows() if "note" in theirs else ():
        console.print(f"the paper, {row['method']} ({row['dataset']}): {row['note']}", style="dim")


def _table(title: str, lines: pd.DataFrame) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("method", "ours", "gap", "seeds", "the paper", "gap"):
        table.add_column(column, justify="left" if column == "method" else "right")
    top = lines[["ours", "theirs"]].abs().max().max()
    digits = 1 if top >= 100 else 2 if top >= 10 else 4
    for method, row in lines.iterrows():
        cells: list[Any] = [str(method)]
        for who in ("ours", "theirs"):
            spread = "" if pd.isna(row[f"{who}_std"]) else f" ± {row[f'{who}_std']:.{digits}f}"
            value = "-" if pd.isna(row[who]) else f"{row[who]:.{digits}f}{spread}"
            style = {1: "[bold]", 2: "[underline]"}.get(row[f"{who}_place"], "")
            gap = "-" if pd.isna(row[f"{who}_gap"]) else f"{row[f'{who}_gap']:+.{digits}f}"
            cells += [f"{style}{value}", gap]
            if who == "ours":
                cells.append("-" if pd.isna(row["seeds"]) else str(int(row["seeds"])))
        table.add_row(*cells)
    return table
