"""A study's other picture: the final metric against time and memory of a training step, as the paper's figure 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leaderboards.plots.style import Ends, Look, rows_of_panels, styled
from leaderboards.records import Record
from leaderboards.table import RECIPE, frame

COSTS = (("batch_ms", "dense_batch_ms", "time"), ("step_bytes", "dense_step_bytes", "memory"))
"""A panel each: the column of the pruned network's cost, that of the dense one's, and its name."""
LITTLE = 0.05
"""A cost that no method lowers by more than this share of the dense one's says nothing, and has no panel."""


def parts(records: Sequence[Record]) -> Iterator[pd.DataFrame]:
    """Yield the dense runs of each recipe and device, and those, but variants, that have measured its costs as well."""
    for _, rows in frame(r.result for r in records if not r.result.variant).groupby([*RECIPE, "device"], sort=False):
        known = rows[[dense for _, dense, _ in COSTS]].notna().all(axis=1)
        dense = rows["method"] == "dense"
        if dense.any() and (known & ~dense).any():
            yield rows[known | dense]


@styled
def figure(records: Sequence[Record]) -> Figure | None:
    """Draw a row of panels a recipe and device, as times of two devices cannot be compared; None without any.

    A cost that no method lowers has no panel. It is a share of the dense network's, which each run has measured beside
    its own: other processes slow both down. Points are means over seeds, with the range of the metric, in the order of
    their sparsities.
    """
    rows = list(parts(records))
    if not rows:
        return None
    costs = [cost for cost in COSTS if any(_is_lowered(part, cost) for part in rows)] or [COSTS[0]]
    picture = rows_of_panels(rows, costs, 4.4, _panel)
    for panel, part in zip(picture.axes[:: len(costs)], rows, strict=True):
        first = part.iloc[0]
        panel.set_title(f"{first['dataset']}, {first['network']}, {first['device']}", loc="left", fontsize=10)
    return picture


def _is_lowered(rows: pd.DataFrame, cost: tuple[str, str, str]) -> bool:
    """Return whether the mean cost of a method is clearly below that of the dense network."""
    pruned = rows[rows["method"] != "dense"]
    shares = pruned[cost[0]].astype(float) / pruned[cost[1]].astype(float)
    return bool(shares.groupby([pruned["method"], pruned["sparsity_asked"]]).mean().min() < 1 - LITTLE)


def _panel(panel: Axes, rows: pd.DataFrame, cost: tuple[str, str, str], looks: dict[str, Look]) -> Ends:
    of, dense, name = cost
    points = {}
    for method, method_rows in rows.assign(share=rows[of].astype(float) / rows[dense].astype(float)).groupby("method"):
        at = method_rows.groupby(["sparsity_of", "sparsity_asked"] if method != "dense" else "method")
        xs = at["share"].mean().to_numpy(float) if method != "dense" else np.ones(1)
        ys = at["value"].agg(["mean", "min", "max"])
        # not below 0, as a mean of equal values may be by rounding
        reach = [bar.clip(lower=0) for bar in (ys["mean"] - ys["min"], ys["max"] - ys["mean"])]
        style = {**looks[str(method)].style(), "linewidth": 0.8, "elinewidth": 0.8, "markersize": 6, "zorder": 3}
        panel.errorbar(xs, ys["mean"], reach, **style)
        points[str(method)] = (float(xs[-1]), float(ys["mean"].iloc[-1]))
    panel.set_xlim(0, 1.25 * max(panel.get_xlim()[1], 1))
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xlabel(f"{name} of a training step, dense: 100 %")
    panel.margins(y=0.1)
    return {method: (x, y, x + panel.get_xlim()[1] / 40) for method, (x, y) in points.items()}
