"""Depth regression: a fully convolutional residual network on NYU Depth v2, or any such pairs of images and depths.

Laina, Rupprecht, Belagiannis, Tombari, Navab: "Deeper Depth Prediction with Fully Convolutional Residual Networks", 3DV
2016. Errors are taken at the resolution of the network's input, in the middle of the frame that it is shown (19 of 20
parts of its height and width), where Laina et al. have the whole frame at twice that resolution.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks import DataFingerprint, Summary, Task
from tasks.data.batches import generator
from tasks.depth import depth_maps, metrics, views
from tasks.depth.frames import Frames
from tasks.depth.metrics import errors, errors_of_mean, predicted
from tasks.depth.nyu_dataset import held_out, read, spread
from tasks.depth.views import Augmentation, Size, View, depths_seen, drawn, images_seen, middle
from tasks.nets.fcrn import FCRN
from tasks.runner.command_line import main
from tasks.runner.errors import require
from tasks.runner.files import write
from tasks.runner.machine import memory_budget
from tasks.runner.networks import model_device
from tasks.runner.options import AtLeast0, Bounds, Clip, Count, CountOr0, Positive, Share
from tasks.runner.options import Options as CommonOptions
from tasks.runner.schedules import one_cycle
from tasks.runner.store import digest

Batch = tuple[Tensor, Tensor]
"""Images (N, 3, H, W) float32, and depths in metres at the network's resolution, (N, h, w) float32, 0: no reading."""
TRAINING, SCORING = 0, 1
DRAWN = 4
"""Frames in the picture."""


@dataclass(frozen=True, kw_only=True)
class Options(Augmentation, CommonOptions):
    """A depth regression task's configuration."""

    data: str = "data/nyu"
    """Folder with nyu_depth_v2_labeled.mat and splits.mat, or with train/SCENE/NNNNN.h5 and val/SCENE/NNNNN.h5."""
    dataset: str = ""
    """The data set's name in records; without one, nyu-depth-v2 for the official file and for a folder with
    val/official, else that of the folder and of its scene, if there is only one."""
    encoder: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    """The network's first half."""
    pretrained: bool = False
    """Whether the encoder starts from torchvision's weights of ImageNet."""
    size: Annotated[tuple[int, int], Bounds(minimum=32)] = (228, 304)
    """Height and width of what the network is given: 19 of 20 parts of the frame's, each way."""
    frames: CountOr0 = 0
    """Most training frames, evenly spread; 0 is all."""
    validation: Share = 0.05
    """Share of each scene's training frames, its last ones, that is held out and measured after every epoch."""
    batch: Count = 8
    """Frames in a batch."""
    error: Literal["berhu", "l2"] = "berhu"
    """Training loss: reverse Huber, or mean squared error."""
    learning_rate: Positive = 1e-4
    """Adam's largest learning rate."""
    decay: Literal["onecycle", "none"] = "onecycle"
    """The learning rate's schedule: up and down (Smith and Topin 2018), or none."""
    weight_decay: AtLeast0 = 0.0
    """Of the square of the weights (L2)."""
    clip: Clip = None
    """Largest gradient norm, or None for no clipping."""
    scoring: Count = 5
    """Batches that pruning scores are computed on."""


def default() -> Options:
    """A pretrained encoder and 100 epochs of the official file's 795 pairs; for a GPU, and not measured yet."""
    return Options(pretrained=True, epochs=100, batch=16, learning_rate=3e-4)


def paper() -> Options:
    """The paper's setting, of its section 5 and appendix: batches of 8, Adam at 1e-5 throughout, 10 epochs.

    Whether its encoder is pretrained is not told there; here it is, as in Laina et al.
    """
    return Options(pretrained=True, epochs=10, learning_rate=1e-5, decay="none", as_authors=True)


def small() -> Options:
    """Minutes on one CPU core: images of a quarter of the size through a network of ResNet18."""
    return Options(encoder="resnet18", size=(57, 76), validation=0.15, epochs=24, batch=16, learning_rate=1e-3)


PRESETS = {"default": default, "paper": paper, "small": small}


class Depth(Task):
    """Pairs of images and depths as a :class:`tasks.Task`."""

    metric, higher_is_better = "rmse", False

    def __init__(self, options: Options) -> None:
        self.options, self.clip, self.network = options, options.clip, f"fcrn-{options.encoder}"
        train, test, name = read(options.data)
        self.dataset, self.split = options.dataset or name, test.name
        train, validation = held_out(spread(train, options.frames), options.validation)
        require(len(train) > 0, f"{options.data} has no training frames left: lower --validation")
        frame: Size = (round(options.size[0] / 0.95), round(options.size[1] / 0.95))
        max_bytes = memory_budget(options.device) / 2
        self.training, self.test = Frames(train, frame, max_bytes), Frames(test, frame, max_bytes)
        self.validation = Frames(validation, frame, max_bytes)
        self.content = digest(*(frames.content() for frames in (self.training, self.validation, self.test)))
        self.batches_per_epoch = max(1, len(train) // options.batch)
        self.points: Size = (-(-options.size[0] // 32) * 16, -(-options.size[1] // 32) * 16)
        self.skipped, self.warned = 0, False

    def model(self) -> nn.Module:
        return FCRN(self.options.encoder, self.options.pretrained)

    def trained_on(self) -> DataFingerprint:
        every = (self.training, self.validation, self.test)
        names = digest(*(str(frames.pairs.keys) for frames in every))
        return {"frames": len(self.training), "digest of the names": names, "digest of the frames": self.content}

    def optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.Adam(
            model.parameters(), self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True
        )

    def learning_rate(self, progress: float) -> float:
        share = one_cycle(progress) if self.options.decay == "onecycle" else 1.0
        return self.options.learning_rate * share

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """Whole batches of all training frames in a random order, augmented."""
        self.skipped = 0
        device, key = model_device(model), (self.options.seed, epoch, TRAINING)
        if device.type == "cuda":  # on a CPU such narrow maps are slower so
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        order = torch.randperm(len(self.training), generator=generator(key))
        order = order[: max(1, len(order) // self.options.batch) * self.options.batch]
        random = generator((*key, 1), device)
        for images, depths in self.training.batches(order, self.options.batch, device):
            yield from self._seen(images, depths, drawn(len(images), self.options, random, device))

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Training frames as they are."""
        device, options = model_device(model), self.options
        order = torch.randperm(len(self.training), generator=generator((options.seed, epoch, SCORING)))
        parts = self.training.batches(order[: options.scoring * options.batch], options.batch, device)
        return [seen for i, d in parts for seen in self._seen(i, d, middle(len(i), device))]

    def _seen(self, images: Tensor, depths: Tensor, view: View) -> Iterator[Batch]:
        """The batch that is trained on, of the frames of which some pixel in view has a reading; none if there is no
        such frame."""
        inputs = images_seen(images, view, self.options.size)
        truth = depths_seen(depths, view, self.options.size, self.points)
        some = (truth > 0).flatten(1).any(1)
        count = int((~some).sum())
        self.skipped += count
        if count and not self.warned:
            self.warned = True
            warnings.warn("frames without a reading in view are skipped, and counted in the log", stacklevel=2)
        if count < len(some):
            yield (inputs[some], truth[some]) if count else (inputs, truth)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Reverse Huber or mean squared error over the batch's pixels with a reading."""
        images, truth = batch
        return self._error(model(images), truth)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same, in bfloat16 on a GPU."""
        images, truth = batch
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            depths = model(images)
        return self._error(depths.float(), truth)

    def _error(self, depths: Tensor, truth: Tensor) -> Tensor:
        return metrics.berhu(depths, truth) if self.options.error == "berhu" else metrics.l2(depths, truth)

    def log(self) -> dict[str, float]:
        return {"skipped": self.skipped}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """All errors on the held-out training frames."""
        if not len(self.validation):
            return {}
        return {f"validation_{name}": value for name, value in self._errors(model, self.validation).items()}

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float | Tensor]:
        return self.validate(model)

    def evaluate(self, model: nn.Module) -> float:
        """The root mean square error in metres over all pixels of the split that have a reading."""
        return self._errors(model, self.test)["rmse"]

    def record(self, model: nn.Module, folder: Path) -> list[Path]:
        """All errors, the network's and those of the training frames' mean depth, in metrics.json, and a picture of
        some frames, with the predictions of the dense run of the same recipe where that lies beside this one."""
        options, metrics_file, picture = self.options, folder / "metrics.json", folder / "depths.png"
        mean = errors_of_mean(self.training, self.test, options.size, options.batch)
        errors_of = {self.split: self._errors(model, self.test), f"{self.split}, by the training mean": mean}
        write(metrics_file, json.dumps(errors_of, indent=1) + "\n")
        models = {options.method: model}
        if options.method != "dense":
            dense = depth_maps.dense_beside("nyu", self, options)
            if dense is None:
                warnings.warn(f"{picture} lacks dense predictions: {folder.parent} has no dense run", stacklevel=2)
            else:
                models = {"dense": dense.to(model_device(model)), **models}
        order = torch.tensor(sorted({int((i + 0.5) * len(self.test) / DRAWN) for i in range(DRAWN)}))
        seen = {name: list(predicted(m, self.test, order, options.size, options.batch)) for name, m in models.items()}
        inputs, truth, _ = (torch.cat(each).cpu() for each in zip(*seen[options.method], strict=True))
        predictions = {name: torch.cat([part for _, _, part in parts]).cpu() for name, parts in seen.items()}
        depth_maps.draw(views.shown(inputs), truth, predictions, picture)
        return [metrics_file, picture]

    def _errors(self, model: nn.Module, frames: Frames) -> dict[str, float]:
        return errors(model, frames, self.options.size, self.options.batch)


SUMMARY = Summary("NYU Depth v2", "hub or folder", "FCRN", "14 (--preset small)")
make = Depth


if __name__ == "__main__":
    main("nyu")
