"""Image classification: the adapter that the image tasks share.

Images that fit lie on the training device as they are stored, in bytes, and are augmented there a batch at a time;
others are decoded and augmented by worker processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import DataFingerprint, Task
from tasks.data.batches import generator, scoring_order
from tasks.nets.classifiers import network, require_fit
from tasks.runner import distributed
from tasks.runner.errors import require
from tasks.runner.machine import memory_budget
from tasks.runner.networks import evaluating, model_device
from tasks.runner.options import AtLeast0, Bounds, Clip, Count, CountOr0, Options, Positive, Schedule, Share
from tasks.runner.schedules import one_cycle
from tasks.runner.store import digest
from tasks.vision.augmentation import Augmentation
from tasks.vision.feed import Feed, InMemory, feeds, memory_format
from tasks.vision.images import first, held_out, read

Batch = tuple[Tensor, Tensor]
"""Images (N, 3, size, size) float32, and labels (N,)."""
TRAINING, SCORING = 0, 1


@dataclass(frozen=True, kw_only=True)
class VisionOptions(Augmentation, Options):
    """An image classification task's configuration."""

    data: str
    """Data set on the hub, or a folder: parquet files, a folder a class, or torchvision's CIFAR archives."""
    network: str = "resnet18-cifar"
    """Classifier: one of ours (--network help lists them), of torchvision by its name, or timm:NAME."""
    size: Annotated[int, Bounds(minimum=8)] = 32
    """Side of the images that the network is given."""
    images: CountOr0 = 0
    """Most training images; 0 is all. They are the same for every seed."""
    validation: Share = 0.04
    """Share of the training images that is held out, and measured after every epoch; the same for every seed."""
    batch: Count = 128
    """Images in a batch."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Adam, or SGD with Nesterov momentum 0.9."""
    learning_rate: Positive = 0.1
    """Largest learning rate."""
    schedule: Schedule = "after-cut"
    decay: Literal["onecycle", "cosine", "none"] = "cosine"
    """The learning rate's schedule: up and down (Smith and Topin 2018), down along half a cosine, or none."""
    weight_decay: AtLeast0 = 5e-4
    """Of the square of the weights (L2)."""
    smoothing: Share = 0.0
    """Label smoothing in training, 0 to below 1."""
    clip: Clip = None
    """Largest gradient norm, or None for no clipping."""
    scoring: Count = 5
    """Batches that pruning scores are computed on."""
    compile: bool = False
    """Whether torch.compile makes the training step faster (and compiles it anew after a cut)."""
    test_epochs: tuple[int, ...] = ()
    """Epochs after which the test split is evaluated as well, for a figure; nothing is chosen by it."""


class Vision(Task):
    """A data set of labelled images as a :class:`tasks.Task`."""

    metric, higher_is_better, splits = "accuracy", True, True

    def __init__(self, options: VisionOptions, dataset: str) -> None:
        beyond = [epoch for epoch in options.test_epochs if not 1 <= epoch <= options.epochs]
        require(not beyond, f"test_epochs must be epochs from 1 to {options.epochs}, not {beyond}")
        self.options, self.dataset, self.clip = options, dataset, options.clip
        self.network = options.network
        train, test = read(options.data, dataset)
        self.split, self.classes = test.name, len(train.classes)
        require_fit(options.network, self.classes, options.size)
        train, validation = held_out(first(train, options.images), options.validation)
        require(len(train) > 0, f"{options.data} has no training images left: lower --validation")
        batch, count = min(options.batch, len(train)), distributed.processes()
        require(batch % count == 0, f"a batch of {batch} has no {count} equal parts, one a process: change --batch")
        self.batches_per_epoch = max(1, len(train) // options.batch)
        max_bytes = memory_budget(options.device)
        self.training, self.validation, self.test = feeds(train, validation, test, options.size, max_bytes)
        self.epoch = 0
        self.compiled: Any = None
        self.classes_of = torch.from_numpy(train.labels)
        self.labels = digest(*train.classes, train.labels, validation.labels, test.labels)
        every = (self.training, self.validation, self.test)
        in_memory = [feed.pixels.permute(0, 2, 3, 1) for feed in every if isinstance(feed, InMemory)]
        self.content = digest(*in_memory) if in_memory else digest(train.content(), test.content())

    def model(self) -> nn.Module:
        return network(self.options.network, self.classes, self.options.size)

    def trained_on(self) -> DataFingerprint:
        place = "in memory" if isinstance(self.training, InMemory) else "in files"  # where they are cropped otherwise
        return {
            "images": len(self.training), "classes": self.classes, "digest of the labels": self.labels,
            "digest of the images": self.content, "their place in training": place,
        }  # fmt: skip

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Adam or SGD, fused: one call for each operation and tensor would take much of the time that a cut saves."""
        options, rate = self.options, self.options.learning_rate
        weights, decay = model.parameters(), options.weight_decay
        if options.optimizer == "adam":
            return torch.optim.Adam(weights, rate, weight_decay=decay, fused=True)
        return torch.optim.SGD(weights, rate, 0.9, weight_decay=decay, nesterov=True, fused=True)

    def learning_rate(self, progress: float) -> float:
        match self.options.decay:
            case "onecycle":
                return self.options.learning_rate * one_cycle(progress)
            case "cosine":
                return self.options.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        return self.options.learning_rate

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """Whole batches of all training images in a random order, augmented."""
        self.epoch = epoch
        layout = memory_format(model)
        model.to(memory_format=layout)  # type: ignore[call-overload]
        options, key = self.options, (self.options.seed, epoch, TRAINING)
        for images, labels in self.training.shuffled(options.batch, model_device(model), key, options):
            yield images.contiguous(memory_format=layout), labels

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Training images as they are; of each batch, this process's part."""
        device, options = model_device(model), self.options
        order = torch.randperm(len(self.training), generator=generator((options.seed, epoch, SCORING)))
        order = scoring_order(options, order, self.classes_of)
        local_order = distributed.local_slices(order[: options.scoring * options.batch], options.batch)
        layout, size = memory_format(model), max(1, options.batch // distributed.processes())
        plain = self.training.plain(local_order, size, device)
        return [(images.contiguous(memory_format=layout), labels) for images, labels in plain]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy, with smoothed labels where the options say so."""
        images, labels = batch
        return functional.cross_entropy(model(images), labels, label_smoothing=self.options.smoothing)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same in bfloat16 on a GPU, and compiled where the options say so."""
        if self.options.compile and getattr(self.compiled, "_orig_mod", None) is not model:
            self.compiled = torch.compile(model)  # after a cut it compiles anew by itself
        run: Any = self.compiled or model
        images, labels = batch
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            logits = run(images)
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.options.smoothing)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the held-out training images, and on the test split after the epochs that were asked for."""
        accuracies = self._validation_accuracy(model)
        if self.epoch in self.options.test_epochs:
            accuracies["test_accuracy"] = self._accuracy(model, self.test)
        return accuracies

    def _validation_accuracy(self, model: nn.Module) -> dict[str, float]:
        return {"validation_accuracy": self._accuracy(model, self.validation)} if len(self.validation) else {}

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float | Tensor]:
        """Log probabilities of the classes on the scoring batches, and the validation accuracy."""
        with evaluating(model):
            logs = torch.cat([functional.log_softmax(model(images), -1) for images, _ in batches])
        return {"prediction": logs, **self._validation_accuracy(model)}

    def evaluate(self, model: nn.Module) -> float:
        return self._accuracy(model, self.test)

    def _accuracy(self, model: nn.Module, feed: Feed) -> float:
        with evaluating(model) as device:
            right = torch.zeros((), dtype=torch.long, device=device)
            local_order = torch.arange(distributed.rank(), len(feed), distributed.processes())
            for images, labels in feed.plain(local_order, 2 * self.options.batch, device):
                right += (model(images).argmax(-1) == labels).sum()
        return int(distributed.all_reduce(right)) / len(feed)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
