"""The picture of a study of when to prune, as the paper's figures 2 and 8: the metric by epoch, and the triggers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from leaderboards.plots.style import dense_line, metric_label, styled
from leaderboards.plots.trigger import trace_panels
from leaderboards.records import Record
from leaderboards.table import frame

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#332288")
"""One a sparsity."""


def at_given_epoch(record: Record) -> bool:
    """Return whether the run was pruned at an epoch given in its configuration."""
    return bool(record.config.get("trigger", "").isdecimal())


@styled
def figure(records: Sequence[Record]) -> Figure | None:
    """Draw mean and range over seeds by the epoch of the pruning, a line a sparsity, with a star where the method's
    trigger fired; below it the traces of the first dense run, with a mark where each trigger would have fired for the
    highest sparsity. Return None if no run was pruned at a given epoch, or none is dense.

    Where dense runs with a constant learning rate are there as well, the traces are of the first of these, which the
    pruned ones branch off, and the line is the mean of the others.
    """
    dense = [record for record in records if record.result.method == "dense"]
    if not dense or not any(map(at_given_epoch, records)):
        return None
    trunks = [record for record in dense if record.result.variant]
    decaying = [record for record in dense if not record.result.variant]
    at, by_trigger = (
        frame(r.result for r in records if r.result.method != "dense" and at_given_epoch(r) == fixed)
        for fixed in (True, False)
    )
    first = dense[0].result
    picture = Figure(figsize=(8, 8.4), layout=ConstrainedLayoutEngine(h_pad=0.1))
    above, middle, below = picture.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
    dense_line(above, mean(record.result.value for record in decaying or trunks))
    for color, (asked, asked_rows) in zip(cycle(COLORS), at.groupby("sparsity_asked"), strict=False):
        points = asked_rows.groupby("pruned_epoch")["value"].agg(["mean", "min", "max"])
        epochs = points.index.to_numpy(float)
        above.plot(epochs, points["mean"], color=color, marker="o", markersize=5)
        above.fill_between(epochs, points["min"], points["max"], color=color, alpha=0.1, linewidth=0)
        name = f"{100 * float(str(asked)):g} % removed"
        above.annotate(name, (epochs[-1], points["mean"].iloc[-1]), (6, 0), textcoords="offset points", color=color)
        chosen = by_trigger[by_trigger["sparsity_asked"] == asked]
        above.plot(chosen["pruned_epoch"], chosen["value"], "*", color=color, markersize=13, markeredgecolor="black")
    count = at["seed"].nunique()
    above.set_ylabel(metric_label(first))
    method = " and ".join(sorted(set(at["method"])))
    title = f"{first.dataset}, {first.network}: when {method} prunes\n{count} seed{'s' * (count > 1)}"
    above.set_title(f"{title}; stars: by its own trigger", loc="left")
    highest = float(at["sparsity_asked"].max())
    trace_panels(middle, below, (trunks or decaying)[0], highest)
    middle.set_title(f"definitions of the lazy regime, dense; marks: at or below {1 - highest:.4g}", loc="left")
    below.set_title("knee and masks, dense", loc="left")
    below.set(xlabel="epoch", xlim=(-0.3, None))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return picture
