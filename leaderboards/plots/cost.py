"""A study's other picture: the final metric against time and memory of a training step, as the paper's figure 1.

A row a recipe and device, as times of two devices cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from leaderboards.plots.style import STYLE, Look, method_looks, metric_label
from leaderboards.records import Record
from leaderboards.table import RECIPE, frame

COSTS = (("batch_ms", "dense_batch_ms", "time"), ("step_bytes", "dense_step_bytes", "memory"))
"""Of each panel the column of the pruned network's cost, that of the dense one's, and what it is."""


def parts(records: Sequence[Record]) -> Iterator[pd.DataFrame]:
    """The runs of each recipe and device that tell the dense network's costs beside their own, and its dense runs; no
    variants.
    """
    for _, rows in frame(r.result for r in records if not r.result.variant).groupby([*RECIPE, "device"], sort=False):
        known = rows[[dense for _, dense, _ in COSTS]].notna().all(axis=1)
        dense = rows["method"] == "dense"
        if dense.any() and (known & ~dense).any():
            yield rows[known | dense]


def figure(records: Sequence[Record]) -> Figure:
    """A row of panels a recipe and device. A cost is a share of the dense network's, which each run has measured beside
    its own: other processes on the machine slow both down. A method's points, means over seeds with the range of the
    metric, are joined in the order of their sparsities.
    """
    rows = list(parts(records))
    every = pd.concat(rows)
    looks = method_looks(dict(zip(every["method"], every["structured"], strict=True)))
    with matplotlib.rc_context(STYLE):
        picture = Figure(figsize=(11.5, 4.4 * len(rows) + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        panels = picture.subplots(len(rows), len(COSTS), squeeze=False, sharey="row")
        for pair, part in zip(panels, rows, strict=True):
            ends = [_panel(panel, part, *cost, looks) for panel, cost in zip(pair, COSTS, strict=True)]
            for panel, points in zip(pair, ends, strict=True):
                _label(panel, points, looks)  # only now are the limits known that both panels share
            first = part.iloc[0]
            pair[0].set_title(f"{first['dataset']}, {first['network']}, {first['device']}", loc="left", fontsize=10)
            pair[0].set_ylabel(metric_label(first))
        return picture


Points = dict[str, tuple[float, float]]
"""Method -> where its name stands: at its last point."""


def _panel(panel: Axes, rows: pd.DataFrame, of: str, dense: str, what: str, looks: dict[str, Look]) -> Points:
    ends: Points = {}
    for method, method_rows in rows.assign(share=rows[of].astype(float) / rows[dense].astype(float)).groupby("method"):
        look = looks[str(method)]
        at = method_rows.groupby(["sparsity_of", "sparsity_asked"] if method != "dense" else "method")
        xs = at["share"].mean().to_numpy(float) if method != "dense" else np.ones(1)
        ys = at["value"].agg(["mean", "min", "max"])
        # not below 0, as a mean of equal values may be by rounding
        reach = [bar.clip(lower=0) for bar in (ys["mean"] - ys["min"], ys["max"] - ys["mean"])]
        panel.errorbar(
            xs, ys["mean"], reach, color=look.color, linestyle=look.line,
            linewidth=0.8, elinewidth=0.8, marker=look.marker, markersize=6, markerfacecolor=look.face, zorder=3,
        )  # fmt: skip
        ends[str(method)] = (float(xs[-1]), float(ys["mean"].iloc[-1]))
    panel.set_xlim(0, 1.25 * max(panel.get_xlim()[1], 1))
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xlabel(f"{what} of a training step, dense: 100 %")
    panel.margins(y=0.1)
    return ends


def _label(panel: Axes, ends: Points, looks: dict[str, Look]) -> None:
    """Each method's name right of its last point, as near as is clear of other names, within the panel."""
    low, high = panel.get_ylim()
    right = panel.get_xlim()[1]
    step, width = (high - low) / 22, right / 4
    taken: list[tuple[float, float]] = []
    place: dict[str, Any] = {"va": "center", "fontsize": 8, "arrowprops": {"arrowstyle": "-", "color": "#cccccc"}}
    for method, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        near = (y + side * far * step / 4 for far in range(100) for side in (1, -1))
        clear = (
            h for h in near if low < h < high and all(abs(x - at) >= width or abs(h - its) >= step for at, its in taken)
        )
        height = next(clear, y)
        taken.append((x, height))
        panel.annotate(method, (x, y), (x + right / 40, height), color=looks[method].color, **place)
