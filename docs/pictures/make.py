"""Draw the pictures of README and of the documentation: ``python docs/pictures/make.py [FOLDER]``.

Numbers in them are measured here on a small network, or read from ``leaderboards/``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop.scoring.scores import node_scores

ROOT = Path(__file__).parents[2]
BLUE, ORANGE, GREY, DARK = "#0072b2", "#d55e00", "#cfcfcf", "#333333"
EPOCHS, SPARSITY = 20, 0.6
SMALL: dict[str, Any] = {"fontsize": 8, "color": DARK}


class Network(nn.Module):
    """Two layers of 16 that a residual connection couples, a layer of 16 of its own, and the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(12, 16), nn.Linear(16, 16)
        self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + functional.relu(self.block(x))
        output: Tensor = self.head(functional.relu(self.hidden(x)))
        return output


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def main(folder: Path) -> None:
    """Draw all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    training = train()
    for name, picture in {
        "overview": overview(training),
        "trace": trace_picture(training["model"], training["graph"]),
        "score": score_picture(training),
        "trigger": trigger_picture(training),
        "cut": cut_picture(training),
    }.items():
        picture.savefig(folder / f"{name}.png", dpi=130)
        print(folder / f"{name}.png")


def train() -> dict[str, Any]:
    """Train the small network with EarlyCroP; return what it showed on its way."""
    torch.manual_seed(0)
    centres, labels = torch.randn(4, 12), torch.randint(0, 4, (1024,))
    inputs = centres[labels] + 1.5 * torch.randn(1024, 12)
    batches = list(zip(inputs.split(64), labels.split(64), strict=True))
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", SPARSITY, epochs=EPOCHS, of="nodes", rounds=1)
    graph = earlycrop.trace(model, inputs[:8])
    pruner.step(batches)
    changes: dict[int, float] = {}
    scores: Tensor | None = None
    for epoch in range(1, EPOCHS + 1):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if pruner.event is None:
            criterion = earlycrop.CRITERIA["crop"]
            scores = node_scores(model, graph, criterion, loss, batches[:5], batch_statistics=True)
            before = _copy(model)
        if pruner.step(batches) is not None:
            after = _copy(model)
        if "per_rate" in pruner.log():
            changes[epoch] = pruner.log()["per_rate"]
        elif pruner.event is not None and pruner.event.epoch == epoch:
            changes[epoch] = float(pruner.event.reason.rpartition(" is ")[2].partition(",")[0] or "nan")
    return {
        "model": model, "graph": graph, "event": pruner.event, "scores": scores, "changes": changes, "before": before,
        "after": after,
    }  # fmt: skip


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def overview(training: dict[str, Any]) -> Figure:
    """Draw the five steps of EarlyCroP, beside what it does to accuracy and step time of a real network."""
    picture = Figure(figsize=(12, 3.1), layout="constrained")
    steps, result = picture.subplots(1, 2, width_ratios=(2.3, 1))
    _steps(steps, training)
    _accuracy_against_time(result)
    return picture


def _steps(panel: Axes, training: dict[str, Any]) -> None:
    panel.set(xlim=(0, 11.6), ylim=(-0.55, 3.3))
    panel.set_axis_off()
    sizes = (4, 6, 6, 3)
    random = np.random.default_rng(3)
    worth = [np.ones(4), random.random(6), random.random(6), np.ones(3)]
    kept = [np.ones(4, bool), *(w > np.sort(w)[3] for w in worth[1:3]), np.ones(3, bool)]
    _network(panel, 0.2, sizes)
    _network(panel, 5.2, sizes, colors=[[_shade(v) for v in w] for w in worth])
    _network(panel, 7.5, sizes, kept=kept)
    _network(panel, 9.8, (4, 2, 2, 3))
    changes = training["changes"]
    x = 2.75 + 1.5 * np.array(list(changes)) / max(changes)
    y = 0.4 + 2.1 * np.clip(np.array(list(changes.values())), 0, 1.2) / 1.2
    panel.plot(x, y, color=BLUE, linewidth=2)
    panel.plot(x[-1], y[-1], "o", color=ORANGE)
    panel.plot([2.7, 2.7, 4.4], [2.8, 0.35, 0.35], color=DARK, linewidth=0.8)
    panel.text(2.8, 2.55, "change of the weights", **SMALL)
    panel.text(3.55, 0.05, "epochs", ha="center", **SMALL)
    titles = ("dense network", "train and watch", "score", "cut", "small network, trains on")
    for at, title in zip((1.0, 3.5, 6.0, 8.3, 10.6), titles, strict=True):
        panel.text(at, 3.05, title, ha="center", fontsize=9.5, fontweight="bold")
    for at in (1.95, 4.6, 6.95, 9.25):
        panel.add_patch(FancyArrowPatch((at, 1.5), (at + 0.35, 1.5), arrowstyle="-|>", mutation_scale=14, color=DARK))
    panel.text(6.0, -0.45, "dark: its effect on the gradient flow is large", ha="center", **SMALL)


def _network(
    panel: Axes, left: float, sizes: tuple[int, ...], colors: list[list[Any]] | None = None, kept: Any = None
) -> None:
    places = [[(left + 0.5 * i, 1.5 + 0.42 * (j - (n - 1) / 2)) for j in range(n)] for i, n in enumerate(sizes)]
    alive = kept if kept is not None else [np.ones(n, bool) for n in sizes]
    for (a, alive_before), (b, alive_after) in zip(
        zip(places, alive, strict=True), list(zip(places, alive, strict=True))[1:], strict=False
    ):
        for p, p_alive in zip(a, alive_before, strict=True):
            for q, q_alive in zip(b, alive_after, strict=True):
                if p_alive and q_alive:
                    panel.plot(*zip(p, q, strict=True), color="#999999", linewidth=0.4, zorder=1)
    for i, layer in enumerate(places):
        for j, (x, y) in enumerate(layer):
            color = colors[i][j] if colors else BLUE
            if alive[i][j]:
                panel.plot(x, y, "o", color=color, markersize=8, markeredgecolor=DARK, markeredgewidth=0.5, zorder=2)
            else:
                panel.plot(x, y, "x", color=GREY, markersize=7, markeredgewidth=2, zorder=2)


def _shade(value: float) -> tuple[float, ...]:
    """Return the colour of a score from 0 to 1: light to dark."""
    low, high = np.array((0.87, 0.92, 0.97)), np.array((0.03, 0.19, 0.42))
    return tuple((low + (high - low) * value).tolist())


def _accuracy_against_time(panel: Axes) -> None:
    """Draw MiniLM on MRPC from the leaderboard: each run's step time is a share of the dense step it has measured."""
    runs = pd.read_csv(ROOT / "leaderboards" / "glue.csv")
    runs = runs[runs["dataset"] == "MRPC"]
    runs = runs.assign(share=runs["batch_ms"] / runs["dense_batch_ms"])
    names = {"dense": "dense", "earlycrop-s": "EarlyCroP, nodes", "earlycrop-u": "EarlyCroP, weights"}
    names |= {"magnitude-s": "magnitude, nodes", "magnitude-u": "magnitude, weights"}
    for method, rows in runs.groupby("method"):
        share = 1.0 if method == "dense" else rows["share"].mean()
        color = DARK if method == "dense" else ORANGE if str(method).startswith("earlycrop") else "#009e73"
        face = "white" if str(method).endswith("-u") else color
        value, spread = rows["value"].mean(), rows["value"].std()
        panel.errorbar(share, value, spread, fmt="o", color=color, markerfacecolor=face, markersize=7, capsize=2)
        left = share > 0.8
        offset, side = ((-12, -14), "right") if left else ((8, 6), "left")
        panel.annotate(names[str(method)], (share, value), offset, textcoords="offset points", ha=side, fontsize=8)
    panel.set(xlim=(0.3, 1.12), xlabel="time of a training step", ylabel="accuracy")
    panel.set_title("a BERT of 6 layers on MRPC, 3 seeds", fontsize=9.5)
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    panel.spines[["top", "right"]].set_visible(False)


def trace_picture(model: nn.Module, graph: earlycrop.Graph) -> Figure:
    """Draw which rows and columns of which matrices belong to one node of the stem."""
    del model
    picture = Figure(figsize=(9, 2.9), layout="constrained")
    node = graph.nodes[5]
    shapes = {name: shape for name, shape in graph.shapes.items() if len(shape) == 2}
    for panel, (name, shape) in zip(picture.subplots(1, len(shapes)), shapes.items(), strict=True):
        cells = np.zeros(shape)
        for tensor, dim, indices in node.owns:
            if tensor == name:
                cells[indices if dim == 0 else (slice(None), indices)] = 1
        panel.imshow(cells, cmap="Blues", vmin=0, vmax=1.4, aspect="equal")
        panel.set_title(f"{name}\n{shape[0]} x {shape[1]}", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    picture.suptitle("Blue: all entries that are removed with node 5, a channel of the residual stream", fontsize=10)
    return picture


def score_picture(training: dict[str, Any]) -> Figure:
    """Draw the score of every node right before the cut, and which were kept."""
    graph, scores, event = training["graph"], training["scores"].numpy(), training["event"]
    picture = Figure(figsize=(9, 2.9), layout="constrained")
    panel = picture.subplots()
    left = round(len(scores) * (1 - event.achieved))
    keeps = scores >= np.sort(scores)[-left]
    panel.bar(range(len(scores)), scores, color=np.where(keeps, BLUE, GREY))
    panel.set_yscale("log")
    panel.set(xlabel="node", ylabel="score")
    layers = [node.layer for node in graph.nodes]
    for layer in dict.fromkeys(layers):
        first, last = layers.index(layer), len(layers) - 1 - layers[::-1].index(layer)
        panel.axvspan(first - 0.5, last + 0.5, color=ORANGE, alpha=0.06 if first else 0, linewidth=0)
        panel.text((first + last) / 2, scores.max() * 1.3, layer, ha="center", fontsize=9)
    panel.set_ylim(top=scores.max() * 3)
    panel.set_title("Scores of all nodes when the trigger fired; blue: what is kept", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    return picture


def trigger_picture(training: dict[str, Any]) -> Figure:
    """Draw the change of the weights until it falls below the threshold."""
    changes, event = training["changes"], training["event"]
    picture = Figure(figsize=(9, 2.9), layout="constrained")
    panel = picture.subplots()
    panel.plot([1, *changes], [1.0, *changes.values()], "o-", color=BLUE)
    panel.axhline(1 - SPARSITY, color=ORANGE, linestyle="--")
    panel.annotate(
        "threshold, 1 - sparsity", (1, 1 - SPARSITY), (0, 4), textcoords="offset points", color=ORANGE, fontsize=9
    )
    panel.axvline(event.epoch, color=DARK, linewidth=0.8)
    panel.annotate(f"cut after epoch {event.epoch}", (event.epoch, 0.8), (5, 0), textcoords="offset points", fontsize=9)
    panel.set(xlabel="epoch", ylabel="change of the weights, epoch 1: 1", xlim=(0.5, EPOCHS))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.spines[["top", "right"]].set_visible(False)
    return picture


def cut_picture(training: dict[str, Any]) -> Figure:
    """Draw the matrices before and after the cut, in one scale."""
    matrices = {name: p for name, p in training["before"].items() if p.ndim == 2}
    picture = Figure(figsize=(9, 3.7), layout="constrained")
    panels = picture.subplots(2, len(matrices), height_ratios=(2, 1))
    for column, (name, p) in enumerate(matrices.items()):
        for row, (matrix, when) in enumerate(((p, "before"), (training["after"][name], "after"))):
            panel = panels[row][column]
            panel.imshow(matrix.abs(), cmap="Blues", vmin=0, vmax=0.6, aspect="equal")
            panel.set(xlim=(-0.5, 15.5), ylim=((15.5, 7.5)[row], -0.5))
            panel.set_title(f"{name}, {when}\n{matrix.shape[0]} x {matrix.shape[1]}", fontsize=9)
            panel.set_axis_off()
    return picture


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
