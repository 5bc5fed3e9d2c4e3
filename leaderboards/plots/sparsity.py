"""A study's picture: the final metric against sparsity, a row a task, nodes left and single weights right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from leaderboards.plots.style import Ends, Look, dense_line, rows_of_panels
from leaderboards.records import Record
from leaderboards.table import RECIPE, frame, labels

KINDS = ((True, "nodes are cut"), (False, "single weights are held at zero"))


def recipes(records: Sequence[Record]) -> Iterator[pd.DataFrame]:
    """Yield the runs of each recipe that were asked for several sparsities in one measure, with its dense ones.

    A variant of a method has its own curve.
    """
    every = frame(record.result for record in records)
    for _, rows in every.assign(method=labels(every)).groupby(RECIPE, sort=False):
        dense, pruned = rows[rows["method"] == "dense"], rows[rows["sparsity_asked"].notna()]
        for _, part in pruned.groupby("sparsity_of", sort=False):
            if part["sparsity_asked"].nunique() > 1:
                yield pd.concat([dense, part])


def figure(records: Sequence[Record]) -> Figure | None:
    """Draw a row of panels a recipe: mean and range over seeds of each method by what is left, dense as a line.

    A kind of pruning that no run has been given has no panels. Return None without several sparsities.
    """
    parts = list(recipes(records))
    pruned = {structured for part in parts for structured in part.loc[part["method"] != "dense", "structured"]}
    return rows_of_panels(parts, [kind for kind in KINDS if kind[0] in pruned], 3.6, _panel) if parts else None


def _panel(panel: Axes, rows: pd.DataFrame, kind: tuple[bool, str], looks: dict[str, Look]) -> Ends:
    structured, title = kind
    first, asked = rows.iloc[0], np.unique(rows["sparsity_asked"].dropna())
    panel.set_title(f"{first['dataset']}, {first['network']}, {title}", loc="left", fontsize=10)
    pruned = rows[(rows["method"] != "dense") & (rows["structured"] == structured)]
    if pruned.empty:
        panel.set_axis_off()
        return {}
    dense = rows.loc[rows["method"] == "dense", "value"]
    if len(dense):
        dense_line(panel, float(dense.mean()))
    end = 1 - float(pruned["sparsity_asked"].max())
    ends: Ends = {}
    for method, method_rows in pruned.groupby("method"):
        look = looks[str(method)]
        at = method_rows.groupby("sparsity_asked")["value"].agg(["mean", "min", "max"])
        left = 1 - at.index.to_numpy(float)
        panel.plot(left, at["mean"], label=method, markersize=5, **look.style())
        panel.fill_between(left, at["min"], at["max"], color=look.color, alpha=0.08, linewidth=0)
        ends[str(method)] = (float(left[-1]), float(at["mean"].iloc[-1]), end / 1.25)
    panel.set_xlim(1.2 * (1 - asked.min()), end / 3.2)
    panel.set_xscale("log")  # after the limits, as it would take those of the data, which may be of one sparsity
    panel.xaxis.set_major_locator(FixedLocator(list(1 - asked)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - x):.4g} %"))
    panel.set_xlabel(f"{rows['sparsity_of'].iloc[-1]} removed")
    panel.margins(y=0.08)
    return ends
