"""Tiny-ImageNet (Le and Yang 2015): 64 x 64 photographs of two hundred of ImageNet's classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks import Summary, Task
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """Tiny-ImageNet's configuration."""

    data: str = "zh-plus/tiny-imagenet"
    """Data set on the hub, or a folder: parquet files, a folder a class, or torchvision's CIFAR archives."""
    size: int = 64
    """Side of the images that the network is given."""
    padding: int = 8
    """Pixels of black around an image, of which a random window of its size is trained on."""


def standard() -> Options:
    """SGD, cosine and label smoothing on ResNet18 in its form for small images."""
    return Options(preset="standard", epochs=80, smoothing=0.1)


def paper() -> Options:
    """The paper's table 6 (section 5, appendices C and E): Adam and OneCycle on images of 224 x 224, as they are."""
    return Options(
        preset="paper", network="resnet18", size=224, epochs=80, batch=128, optimizer="adam", learning_rate=2e-3,
        decay="onecycle", weight_decay=5e-5, clip=10.0, padding=0, flip=False,
        as_authors=True,
    )  # fmt: skip


def default() -> Options:
    """The standard recipe."""
    return replace(standard(), preset="default")


PRESETS = {"default": default, "standard": standard, "paper": paper}
SUMMARY = Summary("Tiny-ImageNet", "hub or folder", "ResNet18", "for a GPU")


def make(options: Options) -> Task:
    return Vision(options, "Tiny-ImageNet")


if __name__ == "__main__":
    from tasks.runner.command_line import main

    main("tinyimagenet")
