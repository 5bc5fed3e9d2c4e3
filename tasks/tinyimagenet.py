"""Tiny-ImageNet (Le and Yang 2015): 64 x 64 photographs of two hundred of ImageNet's classes."""

from __future__ import annotations

from dataclasses import dataclass

from tasks import Summary, Task
from tasks.runner.command_line import main
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """Tiny-ImageNet's configuration."""

    data: str = "zh-plus/tiny-imagenet"
    size: int = 64
    padding: int = 8


def standard() -> Options:
    """SGD, cosine and label smoothing on ResNet18 in its form for small images."""
    return Options(epochs=80, smoothing=0.1)


def paper() -> Options:
    """The paper's table 6 (section 5, appendices C and E): Adam and OneCycle on images of 224 x 224, as they are."""
    return Options(
        network="resnet18", size=224, epochs=80, batch=128, optimizer="adam", learning_rate=2e-3,
        decay="onecycle", weight_decay=5e-5, clip=10.0, padding=0, flip=False,
        as_authors=True,
    )  # fmt: skip


PRESETS = {"default": standard, "standard": standard, "paper": paper}
SUMMARY = Summary("Tiny-ImageNet", "hub or folder", "ResNet18", "for a GPU")


def make(options: Options) -> Task:
    return Vision(options, "Tiny-ImageNet")


if __name__ == "__main__":
    main("tinyimagenet")
