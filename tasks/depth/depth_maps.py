"""Depth maps as a picture: what was seen, what is true, what was predicted, and by how much that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

import earlycrop
from tasks import Task
from tasks.runner.files import replacing
from tasks.runner.options import Options
from tasks.runner.store import dense_folder


def dense_beside(name: str, task: Task, options: Options) -> nn.Module | None:
    """The network of the finished dense run of the same options, or None where there is none that can be read."""
    folder = dense_folder(name, options)
    try:
        return earlycrop.load(folder, task.model()) if (folder / "result.json").exists() else None
    except earlycrop.SavingError:
        return None


def draw(images: Tensor, truth: Tensor, predictions: Mapping[str, Tensor], path: Path) -> None:
    """Write a picture of a row a frame: ``images`` (N, 3, H, W), 0 to 1, ``truth`` and ``predictions`` (N, h, w) in
    metres, and the absolute error of the last of these. Where there is no reading, nothing is drawn."""
    read = truth.numpy() > 0
    depths = {"truth": np.ma.array(truth.numpy(), mask=~read), **{n: p.numpy() for n, p in predictions.items()}}
    final = list(predictions)[-1]
    wrong = np.ma.array(np.abs(depths[final] - truth.numpy()), mask=~read)
    columns: dict[str, Any] = {"image": images.permute(0, 2, 3, 1).numpy(), **depths, f"error of {final}": wrong}
    farthest, worst = float(depths["truth"].max()), float(np.quantile(wrong.compressed(), 0.99))
    figure = Figure(figsize=(2.6 * len(columns) + 1.6, 2.0 * len(truth) + 0.4), layout="constrained")
    panels = figure.subplots(len(truth), len(columns), squeeze=False)
    for (row, column), panel in np.ndenumerate(panels):
        name = list(columns)[column]
        kinds = {"image": {}, f"error of {final}": {"cmap": "Reds", "vmin": 0, "vmax": worst}}
        kind: dict[str, Any] = kinds.get(name, {"cmap": "viridis_r", "vmin": 0, "vmax": farthest})
        shown = panel.imshow(columns[name][row], aspect="auto", **kind)
        panel.set(xticks=[], yticks=[], facecolor="#d9d9d9")
        panel.set_title(name if row == 0 else "", fontsize=10)
        if name in depths and name != "truth":
            rmse = np.sqrt(np.mean(np.square(depths[name][row] - truth[row].numpy())[read[row]]))
            panel.set_xlabel(f"RMSE {rmse:.2f} m", fontsize=8)
        if row == 0 and name == "truth":
            figure.colorbar(shown, ax=list(panels[:, -1]), label="depth, m", location="right")
        if row == 0 and column == len(columns) - 1:
            figure.colorbar(shown, ax=list(panels[:, -1]), label="error, m", location="right", extend="max")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
