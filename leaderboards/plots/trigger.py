"""The picture of one run's triggers: what each of them looked at, epoch by epoch, and when it would have fired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from earlycrop.triggers.triggers import window
from leaderboards.plots.style import STYLE, saved
from leaderboards.records import Record, read_run
from tasks.runner.options import Options

LAZY = {
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
"""The same of what the other triggers look at, and of their yardstick."""


def draw(folder: Path) -> Path:
    """Write trigger.png and trigger.svg into a finished run's folder and return the former's path.

    Raises:
        ValueError: the folder holds no finished run, or one that measured nothing.
    """
    return saved(figure(read_run(folder)), folder / "trigger")


def would_fire(record: Record, asked: float | None = None) -> dict[str, int | None]:
    """The epoch at which each definition of the lazy regime, with the threshold 1 - sparsity (``asked``, or what the
    run was asked for), the knee and the mask distance (of 5 masks, below 0.1) would have fired within the window of an
    early pruning; None: not before its end.
    """
    earliest, latest = window(record.config["epochs"])
    threshold = 1 - (asked or _sparsity(record))
    fired: dict[str, int | None] = {}
    for name in (*LAZY, "knee", "mask_distance"):
        fired[name] = None
        for epoch, seen in traced(record):
            if name == "knee":
                holds = seen.get("level", np.inf) <= 0.5 < seen.get("fall", 0)
            elif name == "mask_distance":
                holds = epoch >= 5 and seen.get(name, np.inf) < 0.1
            else:
                holds = seen.get(name, np.inf) <= threshold
            if holds and earliest <= epoch <= latest:
                fired[name] = epoch
                break
    return fired


def _sparsity(record: Record) -> float:
    """The sparsity that a run was asked for, or a dense run was told of, or else the default."""
    return float(record.result.sparsity_asked or record.config.get("sparsity", Options().sparsity))


def figure(record: Record) -> Figure:
    """The picture of a record."""
    seen = traced(record)
    if not any(len(values) > 1 for _, values in seen):
        raise ValueError(
            f"run {record.result.run} has no trace of its triggers: train it with --watch, and for 2 epochs at least "
            "before it prunes"
        )
    with matplotlib.rc_context(STYLE):
        picture = Figure(figsize=(10, 4.2), layout=ConstrainedLayoutEngine())
        left, right = picture.subplots(1, 2)
        result = record.result
        picture.suptitle(
            f"{result.task}: {result.method}, seed {result.seed}; "
            + (f"pruned after epoch {result.pruned_epoch}" if result.pruned_epoch is not None else "never pruned")
        )
        asked = _sparsity(record)
        fired = would_fire(record)
        lines(left, seen, LAZY, fired)
        left.axhline(1 - asked, color="#666666", linewidth=1, linestyle=":")
        left.annotate(f"1 - {asked:g}", (1, 1 - asked), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        left.set_title("definitions of the lazy regime")
        lines(right, seen, OTHERS, {"level": fired["knee"], "mask_distance": fired["mask_distance"]})
        right.axhline(0.5, color="#666666", linewidth=1, linestyle=":")
        right.set_title("knee, masks and kernel")
        for panel in (left, right):
            panel.set(xlabel="epoch")
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
            earliest, latest = window(record.config["epochs"])
            panel.axvspan(earliest, latest, color="#000000", alpha=0.05, linewidth=0)
            if result.pruned_epoch:
                panel.axvline(result.pruned_epoch, color="#000000", linewidth=1)
        return picture


def lines(
    panel: Axes, seen: list[tuple[int, dict[str, Any]]], kinds: dict[str, tuple[str, str]], fired: dict[str, int | None]
) -> None:
    """Draw a line a kind, with its label at the end, and a mark where it would have fired."""
    ends: list[tuple[float, float, str, str]] = []
    for name, (color, label) in kinds.items():
        points = [(epoch, abs(values[name])) for epoch, values in seen if values.get(name)]
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
    """Each epoch, and what the triggers looked at after it."""
    return [(line["epoch"], line.get("trigger") or {}) for line in record.log]
