"""Handwritten digits (Alpaydin and Kaynak 1998) as scikit-learn has them: 1,797 images of 8 x 8, nothing to download.

The smallest image task, and the first one to try: about two million weights, above 99 % in less than a minute on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import DataFingerprint, Summary, Task
from tasks.data.batches import generator, scoring_order
from tasks.runner.command_line import main
from tasks.runner.networks import evaluating, model_device
from tasks.runner.options import Bounds, Count, Positive, Schedule
from tasks.runner.options import Options as TaskOptions
from tasks.runner.schedules import one_cycle
from tasks.runner.store import digest

Batch = tuple[Tensor, Tensor]
"""Images (N, 1, 8, 8) float32, and labels (N,)."""
TRAINING, SCORING = 0, 1


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """The configuration of the digits task."""

    epochs: int = 20
    batch: Count = 64
    """Images in a batch."""
    schedule: Schedule = "after-cut"
    learning_rate: Positive = 2e-3
    """Largest learning rate of Adam, which rises and falls once."""
    widths: Annotated[tuple[int, int, int], Bounds(minimum=1)] = (128, 256, 704)
    """Channels of the three convolutions."""
    scoring: Count = 5
    """Batches that pruning scores are computed on."""


def default() -> Options:
    """Three wide convolutions, trained in well under a minute on a CPU."""
    return Options()


PRESETS = {"default": default}


class Digits(Task):
    """The digits as a :class:`tasks.Task`. Of the images, 10 % validate and 20 % test."""

    dataset, metric = "scikit-learn digits", "accuracy"

    def __init__(self, options: Options) -> None:
        self.options = options
        self.network = "-".join(["cnn", *map(str, options.widths)])
        images, labels = load_digits(return_X_y=True)
        rest, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
        train, validation = train_test_split(rest, test_size=0.125, random_state=0, stratify=labels[rest])
        self.images = torch.from_numpy(images / 16 - 0.3).float().view(-1, 1, 8, 8)
        self.labels = torch.from_numpy(labels)
        self.train, self.validation, self.test = (torch.tensor(part) for part in (train, validation, test))
        self.batches_per_epoch: int = max(1, len(train) // options.batch)

    def model(self) -> nn.Module:
        """Convolutions of 3 x 3 with batch norms, each halving the image, and a linear layer on the mean."""
        layers: list[nn.Module] = []
        inputs = 1
        for width in self.options.widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            inputs = width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))

    def optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.Adam(model.parameters(), self.options.learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """Up over the first 30 % of the training, and down to zero."""
        return self.options.learning_rate * one_cycle(progress)

    def trained_on(self) -> DataFingerprint:
        return {"images": len(self.train), "digest": digest(self.images, self.labels)}

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """Whole batches of the training images in a random order."""
        order = torch.randperm(len(self.train), generator=generator((self.options.seed, epoch, TRAINING)))
        yield from self._draw(model, order, self.batches_per_epoch)

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Training images in an order of their own."""
        order = torch.randperm(len(self.train), generator=generator((self.options.seed, epoch, SCORING)))
        order = scoring_order(self.options, order, self.labels[self.train])
        return list(self._draw(model, order, self.options.scoring))

    def _draw(self, model: nn.Module, order: Tensor, count: int) -> Iterator[Batch]:
        size = self.options.batch
        for start in range(0, min(count * size, len(order)), size):
            yield self._batch(self.train[order[start : start + size]], model)

    def _batch(self, chosen: Tensor, model: nn.Module) -> Batch:
        device = model_device(model)
        return self.images[chosen].to(device), self.labels[chosen].to(device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"validation_accuracy": self._accuracy(model, self.validation)}

    def evaluate(self, model: nn.Module) -> float:
        return self._accuracy(model, self.test)

    def _accuracy(self, model: nn.Module, chosen: Tensor) -> float:
        images, labels = self._batch(chosen, model)
        with evaluating(model):
            return float((model(images).argmax(-1) == labels).float().mean())


SUMMARY = Summary("scikit-learn handwritten digits", "in scikit-learn", "3 convolutions, 1.9 M weights", "1")
make = Digits


if __name__ == "__main__":
    main("digits")
