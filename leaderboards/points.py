"""The picture of a study of when to prune: the final metric by the epoch of the cut, above what the triggers saw.

As the paper's figures 2 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from leaderboards.figures import STYLE
from leaderboards.records import Record
from leaderboards.table import frame
from leaderboards.traces import LAZY, OTHERS, lines, traced, would_fire

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#332288")
"""One a sparsity."""


def branches(records: Sequence[Record]) -> list[Record]:
    """The runs that were pruned at a given epoch."""
    return [record for record in records if record.config.get("trigger", "").isdecimal()]


def figure(records: Sequence[Record]) -> Figure:
    """Mean and range over seeds by the epoch of the pruning, a line a sparsity; a star where the method's own trigger
    fired; dense as a dotted line. Below it the traces of the first dense run, to the same epochs.

    Raises:
        ValueError: no run was pruned at a given epoch, or none is dense.
    """
    dense = [record for record in records if record.result.method == "dense"]
    if not (dense and branches(records)):
        raise ValueError("a study of when to prune has a dense run, and others that are pruned at given epochs")
    at, own = (
        frame(r.result for r in records if r.result.method != "dense" and (r in branches(records)) == fixed)
        for fixed in (True, False)
    )
    first = dense[0].result
    with matplotlib.rc_context(STYLE):
        picture = Figure(figsize=(8, 8.4), layout=ConstrainedLayoutEngine(h_pad=0.1))
        FigureCanvasAgg(picture)
        above, middle, below = picture.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
        level = sum(record.result.value for record in dense) / len(dense)
        above.axhline(level, color="#000000", linewidth=1.2, linestyle=":")
        above.annotate("dense", (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
        for color, (asked, mine) in zip(COLORS, at.groupby("sparsity_asked"), strict=False):
            points = mine.groupby("pruned_epoch")["value"].agg(["mean", "min", "max"])
            epochs = points.index.to_numpy(float)
            above.plot(epochs, points["mean"], color=color, marker="o", markersize=5)
            above.fill_between(epochs, points["min"], points["max"], color=color, alpha=0.1, linewidth=0)
            name = f"{100 * float(str(asked)):g} % removed"
            above.annotate(name, (epochs[-1], points["mean"].iloc[-1]), (6, 0), textcoords="offset points", color=color)
            chosen = own[own["sparsity_asked"] == asked]
            above.plot(
                chosen["pruned_epoch"], chosen["value"], "*", color=color, markersize=13, markeredgecolor="black"
            )
        count = at["seed"].nunique()
        better = "higher" if first.higher_is_better else "lower"
        above.set_ylabel(f"{first.metric}, {first.split} ({better} is better)")
        title = f"{first.dataset}, {first.network}: when earlycrop-s prunes, {count} seed{'s' * (count > 1)}"
        above.set_title(f"{title}; stars: by its own trigger", loc="left")
        fired = would_fire(dense[0])
        lines(middle, traced(dense[0]), LAZY, fired)
        lines(below, traced(dense[0]), OTHERS, {"level": fired["knee"], "mask_distance": fired["mask_distance"]})
        middle.set_title("definitions of the lazy regime, dense", loc="left")
        below.set_title("knee and masks, dense", loc="left")
        below.set_xlabel("epoch")
        below.set_xlim(left=-0.3)
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        return picture
