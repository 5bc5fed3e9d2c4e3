"""Losses of depth regression, and errors over a whole split: Laina et al. 2016, sections 3.3 and 4.2.

A depth of 0 is no reading, and counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.depth.frames import Frames
from tasks.depth.nyu_dataset import UNREAD
from tasks.depth.views import Size, depths_seen, images_seen, middle
from tasks.runner.errors import RunError
from tasks.runner.networks import evaluating, model_device

NEAREST = 0.01
"""Metres that a prediction counts as at least, where it is divided by or its logarithm taken."""


def berhu(predicted: Tensor, truth: Tensor) -> Tensor:
    """The mean reverse Huber loss over pixels with a reading: |x| up to c, and (x^2 + c^2) / 2c beyond (eq. 1).

    c is a fifth of the largest |x| of the batch, and is not differentiated.
    """
    x = _differences(predicted, truth).abs()
    c = (x.detach().max() / 5).clamp(min=1e-6)
    return torch.where(x <= c, x, (x.square() + c.square()) / (2 * c)).sum() / (truth > 0).sum()


def l2(predicted: Tensor, truth: Tensor) -> Tensor:
    """The mean squared error in square metres over pixels with a reading."""
    return _differences(predicted, truth).square().sum() / (truth > 0).sum()


def _differences(predicted: Tensor, truth: Tensor) -> Tensor:
    """0 where there is no reading: picking those that have one would make a shape of values, which a trace has not."""
    return torch.where(truth > 0, predicted - truth, 0)


class Errors:
    """Sums over all pixels with a reading; their means are those of a split, whatever the batches were."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pixels = 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Take in predictions and true depths in metres, of one shape."""
        read = truth > 0
        d, t = predicted[read].double(), truth[read].double()
        bounded = d.clamp(min=NEAREST)
        ratio = torch.maximum(bounded / t, t / bounded)
        new = {
            "rmse": (d - t).square(), "rel": (d - t).abs() / t, "log10": (bounded / t).log10().abs(),
            **{f"delta{k}": (ratio < 1.25**k).double() for k in (1, 2, 3)},
        }  # fmt: skip
        for name, values in new.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.pixels += int(read.sum())

    def means(self) -> dict[str, float]:
        """Root mean square error in metres; mean relative and log10 errors; shares of pixels within 1.25, its square
        and its cube of the truth (section 4.2, as Eigen et al. 2014 have them).

        Raises:
            RunError: there was no pixel with a reading.
        """
        if not self.pixels:
            raise RunError(f"no pixel that was evaluated {UNREAD}")
        result = {name: total / self.pixels for name, total in self.sums.items()}
        return {**result, "rmse": math.sqrt(result["rmse"])}


def predicted(
    model: nn.Module, frames: Frames, order: Tensor, size: Size, batch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of the frames at ``order``, a batch at a time: the network's inputs (N, 3, *size), and at their resolution the
    true depths and the predicted ones, (N, *size) in metres."""
    device = model_device(model)
    for images, depths in frames.batches(order, batch, device):
        view = middle(len(images), device)
        inputs = images_seen(images, view, size)
        with evaluating(model):
            wide = functional.interpolate(model(inputs)[:, None], size, mode="bilinear", align_corners=False)
        yield inputs, depths_seen(depths, view, size, size), wide[:, 0]


def errors(model: nn.Module, frames: Frames, size: Size, batch: int) -> dict[str, float]:
    """All errors of the network over the frames; raises RunError where no pixel has a reading."""
    totals = Errors()
    for _, truth, prediction in predicted(model, frames, torch.arange(len(frames)), size, batch):
        totals.add(prediction, truth)
    return totals.means()


def errors_of_mean(training: Frames, frames: Frames, size: Size, batch: int) -> dict[str, float]:
    """The errors over the frames of predicting the mean depth of the training frames everywhere."""
    total, count, cpu = 0.0, 0, torch.device("cpu")
    for _, depths in training.batches(torch.arange(len(training)), batch, cpu):
        total, count = total + float(depths.double().sum()), count + int((depths > 0).sum())
    totals = Errors()
    for _, depths in frames.batches(torch.arange(len(frames)), batch, cpu):
        truth = depths_seen(depths, middle(len(depths), cpu), size, size)
        totals.add(torch.full_like(truth, total / count), truth)
    return totals.means()
