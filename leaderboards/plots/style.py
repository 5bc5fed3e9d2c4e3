"""What all pictures share: how methods look, axes are called, and files are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.runner.atomic_files import replacing

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
SPARE = [("#0072b2", "v"), ("#009e73", "D"), ("#cc79a7", "P"), ("#e69f00", "^"), ("#661100", "<"), ("#56b4e9", "h")]
"""For methods without a place in ``FAMILIES``, in alphabetical order."""
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "axes.axisbelow": True, "axes.edgecolor": "#666666", "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "svg.hashsalt": "leaderboards", "svg.fonttype": "path",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every panel the same."""

    color: str
    marker: str
    line: Any
    """Solid for whole nodes and dense, dashed for single weights."""
    face: str
    """What fills the marker: the colour, or white for single weights."""


def metric_label(result: Any) -> str:
    """What an axis of final metrics is called; ``result``: a run's, or its row in a table."""
    return f"{result.metric}, {result.split} ({'higher' if result.higher_is_better else 'lower'} is better)"


def dense_line(panel: Axes, level: float) -> None:
    """The mean of dense runs across a panel, with its name."""
    panel.axhline(level, color="#000000", linewidth=1.2, linestyle=":", zorder=1)
    panel.annotate("dense", (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)


def saved(picture: Figure, stem: Path) -> Path:
    """Write a picture as ``stem``.png and ``stem``.svg and return the former's path."""
    with matplotlib.rc_context(STYLE):
        with replacing(stem.with_suffix(".png")) as path:
            picture.savefig(path, format="png", dpi=160)
        with replacing(stem.with_suffix(".svg")) as path:
            # Without a date the same records make the same file.
            picture.savefig(path, format="svg", metadata={"Date": None})
    return stem.with_suffix(".png")


def method_looks(structured: dict[str, bool]) -> dict[str, Look]:
    """The look of every method, given whether it is structured; dense first, then by name."""
    spare, looks = iter(SPARE * len(structured)), {}
    for method in sorted(structured, key=lambda name: (name != "dense", name)):
        family = FAMILIES.get(method) or FAMILIES.get(method.removesuffix("-u").removesuffix("-s"))
        color, marker = family or next(spare)
        solid = structured[method] or method == "dense"
        looks[method] = Look(color, marker, "-" if solid else (0, (4, 1.5)), color if solid else "white")
    return looks
