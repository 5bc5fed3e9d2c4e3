"""The pictures: how each method learned, and what it reached with how many parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from leaderboards.plots.ranges import end_of_games, set_range, shown_range, spread_losses
from leaderboards.plots.style import Look, method_looks, metric_label, saved, styled
from leaderboards.records import Record
from leaderboards.table import groups, short

MAX_ROWS = 4
"""More groups than this stand side by side."""
CUT: dict[str, Any] = {"markersize": 9, "markeredgecolor": "black", "markeredgewidth": 1.2}
"""The mark at the epoch where a network was cut."""

Floats = NDArray[np.float64]


def draw(records: Iterable[Record], stem: Path) -> Path:
    """Write ``stem``.png and ``stem``.svg and return the former's path, of a method without its other variants."""
    return saved(figure(plainest(records)), stem)


def plainest(records: Iterable[Record]) -> list[Record]:
    """Return the runs of each method as it is, or of its shortest variant where comparable runs are all variants."""
    listed = list(records)
    by_run = {record.result.run: record for record in listed}
    kept = {}
    for group in groups(record.result for record in listed):
        for _, rows in group.rows.assign(length=group.rows["variant"].str.len()).groupby("method"):
            first = rows.sort_values(["length", "variant"]).iloc[0]
            for run in rows.loc[rows["variant"] == first["variant"], "run"]:
                result = by_run[run].result
                name = f"{result.method} ({result.variant})" if result.variant else result.method
                kept[run] = replace(by_run[run], result=replace(result, method=name))
    return list(kept.values())


@styled
def figure(records: Sequence[Record]) -> Figure:
    """Draw two panels a group of comparable runs: learning, and final metric against parameters; at most 4 rows."""
    by_run = {record.result.run: record for record in records}
    parts = list(groups(record.result for record in records))
    looks = method_looks({record.result.method: record.result.structured for record in records})
    columns = ceil(len(parts) / MAX_ROWS)
    rows = ceil(len(parts) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    picture = Figure(figsize=(11.5 * columns, 4.1 * rows + 0.9), layout=layout)
    panels = picture.subplots(rows, 2 * columns, squeeze=False, width_ratios=(1.25, 1) * columns)
    pairs = panels.reshape(rows * columns, 2)
    for left, right in pairs[len(parts) :]:
        left.set_axis_off()
        right.set_axis_off()
    for (left, right), group in zip(pairs, parts, strict=False):
        runs = [by_run[run] for run in group.rows["run"]]
        left.set_title(f"{group.title}; {group.seeds}", loc="left", pad=12)
        _learning(left, runs, looks)
        _outcome(right, runs, looks)
    _legend(picture, records, looks)
    return picture


def axes_of(runs: Sequence[Record]) -> tuple[str, str, str, str]:
    """Choose what is drawn of these runs' logs: the keys of x and y, and their labels."""
    keys = {key for run in runs for line in run.log for key, value in line.items() if value is not None}
    metric = runs[0].result.metric
    if {"games", "return"} <= keys:
        return "games", "return", "games played", "average return of training games"
    if metric in keys:
        return "epoch", metric, "epoch", f"{metric} after the epoch"
    return "epoch", "loss", "epoch", "training loss"


def curve(run: Record, x: str, y: str) -> tuple[Floats, Floats]:
    """Return the points of one run's log that have both values."""
    pairs = [(line.get(x), line.get(y)) for line in run.log]
    points = [pair for pair in pairs if all(isinstance(value, int | float) for value in pair)]
    xs, ys = np.array(points, dtype=float).reshape(-1, 2).T
    return xs, ys


def band(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return x, mean, lowest and highest of several runs, over the range that all of them cover."""
    start, end = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    grid = np.unique(np.concatenate([xs for xs, _ in curves]).clip(start, max(start, end)))
    ys = np.stack([np.interp(grid, *points) for points in curves])
    return grid, ys.mean(0), ys.min(0), ys.max(0)


def _learning(panel: Axes, runs: Sequence[Record], looks: dict[str, Look]) -> None:
    x, y, x_label, y_label = axes_of(runs)
    ends, heights = [], []
    for method, look in looks.items():
        method_runs = [run for run in runs if run.result.method == method]
        curves = [points for run in method_runs if len((points := curve(run, x, y))[0])]
        if not curves:
            continue
        xs, mean, low, high = band(curves)
        ends.append(xs[-1])
        heights += [low.min(), high.max()]
        front = 3 if method == "dense" else 4
        panel.plot(xs, mean, color=look.color, linestyle=look.line, linewidth=1.8, zorder=front)
        if len(curves) > 1:
            panel.fill_between(xs, low, high, color=look.color, alpha=0.11, linewidth=0, zorder=2)
        if cuts := [_cut_at(run, x) for run in method_runs if run.result.pruned_epoch]:
            at = float(np.clip(np.mean(cuts), xs[0], xs[-1]))
            panel.plot(at, np.interp(at, xs, mean), look.marker, color=look.color, zorder=6, clip_on=False, **CUT)
    panel.margins(x=0.02)
    if heights and (y == "loss" or not runs[0].result.higher_is_better):
        spread_losses(panel, min(heights), max(heights))
    panel.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1.02 * end_of_games(ends) if ends else None))
    panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    if x == "games":
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _cut_at(run: Record, x: str) -> float:
    """Return where on the x axis the network was cut."""
    seen = [line.get(x) for line in run.log if line["epoch"] <= (run.result.pruned_epoch or 0)]
    return float(max((value for value in seen if value is not None), default=0))


def _outcome(panel: Axes, runs: Sequence[Record], looks: dict[str, Look]) -> None:
    sizes = {method: [run.result.parameters for run in runs if run.result.method == method] for method in looks}
    sizes = {method: method_sizes for method, method_sizes in sizes.items() if method_sizes}
    for method, shift in side_by_side(sizes).items():
        look, ys = looks[method], [run.result.value for run in runs if run.result.method == method]
        if method == "dense":
            panel.axhline(float(np.mean(ys)), color="#999999", linewidth=1, linestyle=":", zorder=1)
        filled = MarkerStyle(look.marker).is_filled()  # one of strokes has no face and no edge
        edge: dict[str, Any] = {"edgecolors": look.color} if filled else {}
        color = look.face if filled else look.color
        style: dict[str, Any] = {"s": 48, "marker": look.marker, "linewidths": 1.4, "alpha": 0.9, "zorder": 3, **edge}
        panel.scatter([shift * size for size in sizes[method]], ys, color=color, **style)
    smallest, largest = min(map(min, sizes.values())), max(map(max, sizes.values()))
    narrow, result = largest < 30 * smallest, runs[0].result
    panel.set(xscale="log", xlim=(smallest / 1.7, largest * 1.7), ylabel=f"final {metric_label(result)}")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    if narrow:
        panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("parameters left (log scale; methods of like size side by side)")
    _limit_values(panel, runs, sizes)


def _limit_values(panel: Axes, runs: Sequence[Record], sizes: dict[str, list[int]]) -> None:
    """Show the values of all methods but hopeless ones, whose means stand at the edge."""
    higher = runs[0].result.higher_is_better
    values = {method: [run.result.value for run in runs if run.result.method == method] for method in sizes}
    means = {method: float(np.mean(method_values)) for method, method_values in values.items()}
    low, high = shown_range(list(means.values()), higher)
    shown = [method for method, mean in means.items() if low <= mean <= high]
    set_range(panel, min(min(values[method]) for method in shown), max(max(values[method]) for method in shown))
    for place, method in enumerate(method for method in means if method not in shown):
        text, edge = f"{method}: {means[method]:.4g}, off the axis", 0.04 + 0.06 * place
        panel.text(0.98, edge if higher else 1 - edge, text, transform=panel.transAxes, ha="right", fontsize=8)


def side_by_side(sizes: dict[str, list[int]]) -> dict[str, float]:
    """Return a factor on x a method, so that methods of (nearly) the same size do not hide each other."""
    means = {method: float(np.mean(np.log(method_sizes))) for method, method_sizes in sizes.items()}
    step = 0.02 * (max(means.values()) - min(means.values()) + 2 * np.log(1.7))
    clusters: list[list[str]] = []
    for method in sorted(means, key=lambda name: (means[name], name)):
        near = clusters and means[method] - means[clusters[-1][-1]] < step
        clusters[-1].append(method) if near else clusters.append([method])
    return {
        method: float(np.exp(step * (place - (len(cluster) - 1) / 2)))
        for cluster in clusters
        for place, method in enumerate(sorted(cluster, key=list(sizes).index))
    }


def _legend(picture: Figure, records: Sequence[Record], looks: dict[str, Look]) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], markersize=7, label=method, **look.style()) for method, look in looks.items()
    ]
    if any(record.result.pruned_epoch for record in records):
        label = "network cut (unmarked: before training)"
        handles.append(Line2D([], [], linestyle="", marker="o", color="white", label=label, **CUT))
    if "dense" in looks:
        handles.append(Line2D([], [], color="#999999", linestyle=":", label="dense, mean"))
    handles.append(Patch(color="#999999", alpha=0.35, label="lowest to highest seed"))
    picture.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
