"""A study's picture: the final metric against sparsity, a row a task, nodes left and single weights right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from leaderboards.plots.style import STYLE, Look, dense_line, method_looks, metric_label
from leaderboards.records import Record
from leaderboards.table import RECIPE, frame, labels

KINDS = ((True, "nodes are cut"), (False, "single weights are held at zero"))


def recipes(records: Sequence[Record]) -> Iterator[pd.DataFrame]:
    """The runs of each recipe that were asked for several sparsities in one measure, with its dense ones.

    With a single sparsity there is no curve. A variant of a method has a name, and so a curve, of its own.
    """
    every = frame(record.result for record in records)
    for _, rows in every.assign(method=labels(every)).groupby(RECIPE, sort=False):
        dense, pruned = rows[rows["method"] == "dense"], rows[rows["method"] != "dense"]
        for _, part in pruned.groupby("sparsity_of", sort=False):
            if part["sparsity_asked"].nunique() > 1:
                yield pd.concat([dense, part])


def figure(records: Sequence[Record]) -> Figure:
    """A row of panels a recipe: mean and, as a band, the lowest and highest seed of each method at each asked
    sparsity; dense as a line.

    What is left is drawn on a logarithmic scale: each step to the right leaves a tenth of the weights. A kind of
    pruning that none of them has been given has no panels.
    """
    parts = list(recipes(records))
    rows = pd.concat(parts)
    kinds = [kind for kind in KINDS if (rows.loc[rows["method"] != "dense", "structured"] == kind[0]).any()]
    looks = method_looks(dict(zip(rows["method"], rows["structured"], strict=True)))
    with matplotlib.rc_context(STYLE):
        picture = Figure(
            figsize=(5.75 * len(kinds), 3.6 * len(parts) + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        )
        panels = picture.subplots(len(parts), len(kinds), squeeze=False, sharey="row")
        for pair, part in zip(panels, parts, strict=True):
            ends = [_panel(panel, part, structured, looks) for panel, (structured, _) in zip(pair, kinds, strict=True)]
            first = part.iloc[0]
            pair[0].set_ylabel(metric_label(first))
            for panel, (_, title), its in zip(pair, kinds, ends, strict=True):
                _label(panel, its, looks)  # only now are the limits known that both panels share
                panel.set_title(f"{first['dataset']}, {first['network']}, {title}", loc="left", fontsize=10)
    return picture


Ends = list[tuple[float, float, str]]
"""Of each line the last value, what is left there, and the method."""


def _panel(panel: Axes, rows: pd.DataFrame, structured: bool, looks: dict[str, Look]) -> Ends:
    dense = rows.loc[rows["method"] == "dense", "value"]
    if len(dense):
        dense_line(panel, float(dense.mean()))
    pruned = rows[(rows["method"] != "dense") & (rows["structured"] == structured)]
    ends: Ends = []
    for method, method_rows in pruned.groupby("method"):
        look = looks[str(method)]
        at = method_rows.groupby("sparsity_asked")["value"].agg(["mean", "min", "max"])
        left = 1 - at.index.to_numpy(float)
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": look.line}
        panel.plot(left, at["mean"], label=method, markersize=5, markerfacecolor=look.face, **style)
        panel.fill_between(left, at["min"], at["max"], color=look.color, alpha=0.08, linewidth=0)
        ends.append((float(at["mean"].iloc[-1]), float(left[-1]), str(method)))
    asked = np.unique(rows["sparsity_asked"].dropna())
    panel.set_xlim(1.2 * (1 - asked.min()), (1 - asked.max()) / 1.2)
    panel.set_xscale("log")  # after the limits, as it would take those of the data, which may be of one sparsity
    panel.xaxis.set_major_locator(FixedLocator(list(1 - asked)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - x):.4g} %"))
    panel.set_xlabel(f"{rows['sparsity_of'].iloc[-1]} removed")
    panel.margins(y=0.08)
    return ends


def _label(panel: Axes, ends: Ends, looks: dict[str, Look]) -> None:
    """Each method's name at the end of its line, clear of the one below, within the panel."""
    if not ends:
        panel.set_axis_off()
        return
    x = min(x for _, x, _ in ends)
    panel.set_xlim(right=x / 3.2)
    low, high = panel.get_ylim()
    step, ends = (high - low) / 17, sorted(ends)
    heights = np.array([value for value, _, _ in ends])
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    heights[-1] = min(heights[-1], high)
    for i in reversed(range(len(heights) - 1)):  # back below the top, where they were pushed beyond it
        heights[i] = min(heights[i], heights[i + 1] - step)
    pointer = {"arrowstyle": "-", "color": "#cccccc", "lw": 0.6}
    place: dict[str, Any] = {"textcoords": "data", "va": "center", "fontsize": 8, "arrowprops": pointer}
    for (value, at, method), height in zip(ends, heights, strict=True):
        panel.annotate(method, (at, value), (x / 1.25, height), color=looks[method].color, **place)
