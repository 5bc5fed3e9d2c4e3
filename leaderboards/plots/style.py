"""What all pictures share: looks of methods, names of axes, and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from tasks.runner.files import replacing

FAMILIES = {
    "dense": ("#000000", "s"),
    "earlycrop": ("#d55e00", "o"),
    "cropit": ("#e69f00", "^"),
    "crop": ("#0072b2", "v"),
    "crop-gate": ("#56b4e9", "<"),
    "snip": ("#009e73", "D"),
    "snap": ("#009e73", "D"),
    "grasp": ("#cc79a7", "P"),
    "random": ("#8c8c8c", "X"),
    "synflow": ("#117733", "H"),
    "taylor": ("#aa4499", "d"),
    "magnitude": ("#ddcc77", ">"),
    "magnitude-after": ("#6699cc", "1"),
    "earlybird": ("#332288", "p"),
    "gatedecorators": ("#44aa99", "h"),
    "efficientconvnets": ("#882255", "8"),
    "ltr": ("#999933", "*"),
}
"""Colour and marker of each family of methods: after Okabe and Ito, and Tol's muted set; no two share a marker."""
MAX_PIXELS = 1600
"""The largest height of a picture, so that it fits a page."""
SPARE = [("#0072b2", "v"), ("#009e73", "D"), ("#cc79a7", "P"), ("#e69f00", "^"), ("#661100", "<"), ("#56b4e9", "h")]
"""For methods without a place in ``FAMILIES``, in alphabetical order."""
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "axes.axisbelow": True, "axes.edgecolor": "#666666", "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "svg.hashsalt": "leaderboards", "svg.fonttype": "path",
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)
"""Decorates what draws a picture."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every panel the same."""

    color: str
    marker: str
    line: Any
    """Solid for whole nodes and dense, dashed for single weights."""
    face: str
    """What fills the marker: the colour, or white for single weights."""

    def style(self) -> dict[str, Any]:
        """Return the look as arguments of a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, "markerfacecolor": self.face}


def metric_label(result: Any) -> str:
    """Return the name of an axis of final metrics; ``result``: a run's, or its row in a table."""
    return f"{result.metric}, {result.split} ({'higher' if result.higher_is_better else 'lower'} is better)"


def dense_line(panel: Axes, level: float) -> None:
    """Draw the mean of dense runs across a panel, with its name."""
    panel.axhline(level, color="#000000", linewidth=1.2, linestyle=":", zorder=1)
    panel.annotate("dense", (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)


Ends = dict[str, tuple[float, float, float]]
"""Method -> the last point of its line, and where its name stands on x."""


@styled
def rows_of_panels(
    parts: Sequence[pd.DataFrame], columns: Sequence[Any], height: float,
    draw: Callable[[Axes, pd.DataFrame, Any, dict[str, Look]], Ends],
) -> Figure:  # fmt: skip
    """Draw a row of panels a part, a panel a column, that share the axis of the metric, with methods' names."""
    runs = pd.concat(parts)
    looks = method_looks(dict(zip(runs["method"], runs["structured"], strict=True)))
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    picture = Figure(figsize=(5.75 * len(columns), height * len(parts) + 0.4), layout=layout)
    rows = picture.subplots(len(parts), len(columns), squeeze=False, sharey="row")
    for panels, part in zip(rows, parts, strict=True):
        ends = [draw(panel, part, column, looks) for panel, column in zip(panels, columns, strict=True)]
        for panel, panel_ends in zip(panels, ends, strict=True):
            _label(panel, panel_ends, looks)  # only now are the limits known that the panels share
        panels[0].set_ylabel(metric_label(part.iloc[0]))
    return picture


def _label(panel: Axes, ends: Ends, looks: dict[str, Look]) -> None:
    """Write each method's name as near its last point as is clear of other names, within the panel."""
    low, high = panel.get_ylim()
    step, width = (high - low) / 22, panel.get_xlim()[1] / 4
    taken: list[tuple[float, float]] = []
    place: dict[str, Any] = {"va": "center", "fontsize": 8, "arrowprops": {"arrowstyle": "-", "color": "#cccccc"}}
    for method, (x, y, name_x) in sorted(ends.items(), key=lambda item: item[1][1]):
        near = (y + side * far * step / 4 for far in range(100) for side in (1, -1))
        clear = (
            height
            for height in near
            if low < height < high and all(abs(name_x - x) >= width or abs(height - y) >= step for x, y in taken)
        )
        taken.append((name_x, next(clear, y)))
        panel.annotate(method, (x, y), taken[-1], color=looks[method].color, **place)


@styled
def saved(picture: Figure, stem: Path) -> Path:
    """Write a picture as ``stem``.png and ``stem``.svg and return the former's path."""
    ticks = {id(text) for axis in picture.findobj(Axis) for tick in axis.findobj(Tick) for text in tick.findobj(Text)}
    for text in picture.findobj(Text):
        if id(text) not in ticks:  # which are powers of ten; in names of runs a dollar is a dollar
            text.set_parse_math(False)
    picture.draw_without_rendering()  # lays it out, once for both files
    picture.set_layout_engine("none")
    with replacing(stem.with_suffix(".png")) as path:
        picture.savefig(path, format="png", dpi=min(160, int(MAX_PIXELS / picture.get_figheight())))
    with replacing(stem.with_suffix(".svg")) as path:
        picture.savefig(path, format="svg", metadata={"Date": None})  # the same records make the same file
    return stem.with_suffix(".png")


def method_looks(structured: dict[str, bool]) -> dict[str, Look]:
    """Return the look of every method, given whether it is structured; dense first, then by name."""
    spare, looks, taken = iter(SPARE * len(structured)), {}, set()
    for method in sorted(structured, key=lambda name: (name != "dense", name)):
        base = method.partition(" (")[0]  # without its variant
        name = method if base in taken else base  # one variant of several looks like the method, and others do not
        taken.add(base)
        family = FAMILIES.get(name) or FAMILIES.get(name.removesuffix("-u").removesuffix("-s"))
        color, marker = family or next(spare)
        solid = structured[method] or method == "dense"
        looks[method] = Look(color, marker, "-" if solid else (0, (4, 1.5)), color if solid else "white")
    return looks
