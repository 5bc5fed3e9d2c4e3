"""The picture of one run's triggers: what each measured after every epoch, and when it would have fired."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from earlycrop.triggers.triggers import window
from leaderboards.plots.style import styled
from leaderboards.records import Record
from tasks.runner.options import Options

LAZY = {
    "per_rate": ("#882255", "|d - d'| / r, by its first"),
    "unsquared": ("#d55e00", "|d - d'| / d1"),
    "squared": ("#0072b2", "|d² - d'²| / d1²"),
    "squared_current": ("#009e73", "|d² - d'²| / d²"),
    "algorithm1": ("#cc79a7", "(d² - d'²) / |w0|²"),
    "authors": ("#332288", "|e - e'| / e2"),
}
"""Colour and label of each definition of the lazy regime."""
OTHERS = {
    "fall": ("#e69f00", "c / c'"),
    "level": ("#56b4e9", "c / max c"),
    "mask_distance": ("#44aa99", "mask distance"),
    "kernel_turn": ("#000000", "turn of the kernel"),
}
"""The same of what the other triggers measure, and of the kernel's turn, to judge them by."""


def would_fire(record: Record, asked: float | None = None) -> dict[str, int | None]:
    """Return the epoch at which each trigger would have fired within the window of an early pruning, or None.

    The lazy regime's threshold is 1 - sparsity (``asked``, or what the run was asked for); the mask distance is that
    of 5 masks, below 0.1.
    """
    earliest, latest = window(record.result.epochs)
    threshold = 1 - (asked or _sparsity(record))

    def fires(name: str, epoch: int, seen: dict[str, Any]) -> bool:
        if name == "knee":
            return bool(seen.get("level", np.inf) <= 0.5 < seen.get("fall", 0))
        if name == "mask_distance":
            return epoch >= 5 and seen.get(name, np.inf) < 0.1
        return bool(seen.get(name, np.inf) <= threshold)

    epochs = [(epoch, seen) for epoch, seen in traced(record) if earliest <= epoch <= latest]
    names = (*LAZY, "knee", "mask_distance")
    return {name: next((epoch for epoch, seen in epochs if fires(name, epoch, seen)), None) for name in names}


def _sparsity(record: Record) -> float:
    """Return the sparsity that a run was asked for, or the one in a dense run's configuration, or the default."""
    return float(record.result.sparsity_asked or record.config.get("sparsity", Options().sparsity))


@styled
def figure(record: Record) -> Figure:
    """Draw the triggers of a record; raise ValueError if it has no trace of them."""
    if not any(len(values) > 1 for _, values in traced(record)):
        raise ValueError(
            f"run {record.result.run} has no trace of its triggers: train it with --watch, and for 2 epochs at least "
            "before it prunes"
        )
    picture = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    result, asked = record.result, _sparsity(record)
    when = "never pruned" if result.pruned_epoch is None else f"pruned after epoch {result.pruned_epoch}"
    picture.suptitle(f"{result.task}: {result.method}, seed {result.seed}; {when}")
    trace_panels(left, right, record, asked)
    left.axhline(1 - asked, color="#666666", linewidth=1, linestyle=":")
    left.annotate(f"1 - {asked:g}", (1, 1 - asked), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    left.set_title("definitions of the lazy regime")
    right.axhline(0.5, color="#666666", linewidth=1, linestyle=":")
    right.set_title("knee, masks and kernel")
    for panel in (left, right):
        panel.set(xlabel="epoch", xlim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        panel.axvspan(*window(record.result.epochs), color="#000000", alpha=0.05, linewidth=0)
        if result.pruned_epoch:
            panel.axvline(result.pruned_epoch, color="#000000", linewidth=1)
    return picture


def trace_panels(lazy: Axes, others: Axes, record: Record, asked: float) -> None:
    """Draw a line a trigger, with its label at the end, and a mark where it would have fired for that sparsity."""
    fired = would_fire(record, asked)
    for panel, kinds in ((lazy, LAZY), (others, OTHERS)):
        _lines(panel, record, kinds, {**fired, "level": fired["knee"]})


def _lines(panel: Axes, record: Record, kinds: dict[str, tuple[str, str]], fired: dict[str, int | None]) -> None:
    ends: list[tuple[float, float, str, str]] = []
    for name, (color, label) in kinds.items():
        points = [(epoch, abs(values[name])) for epoch, values in traced(record) if values.get(name)]
        if not points:
            continue
        x, y = (np.array(v, float) for v in zip(*points, strict=True))
        panel.plot(x, y, color=color)
        ends.append((float(y[-1]), float(x[-1]), label, color))
        if (at := fired.get(name)) is not None:
            panel.plot(at, float(np.interp(at, x, y)), "o", color=color, markersize=8, markeredgecolor="black")
    panel.set_yscale("log")
    last = -np.inf
    for y_end, x_end, label, color in sorted(ends):  # from below, each label clear of the one before
        height = panel.transData.transform((x_end, y_end))[1] * 72 / panel.figure.dpi
        up = max(0.0, last + 10 - height)
        panel.annotate(label, (x_end, y_end), (4, up), textcoords="offset points", color=color, va="center", fontsize=8)
        last = height + up
    panel.margins(x=0.22)


def traced(record: Record) -> list[tuple[int, dict[str, Any]]]:
    """Return each epoch, and what the triggers measured after it."""
    return [(line["epoch"], line.get("trigger") or {}) for line in record.log]
