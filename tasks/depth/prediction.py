"""What a depth network predicts of a split's frames, and how far that is from the truth."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.depth.frames import Frames
from tasks.depth.metrics import Errors
from tasks.depth.views import Size, depths_seen, images_seen, middle
from tasks.runner.networks import evaluating, model_device


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
