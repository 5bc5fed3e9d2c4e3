"""CIFAR-10 (Krizhevsky 2009): 32 x 32 photographs of ten kinds of things."""

from __future__ import annotations

from dataclasses import dataclass

from tasks import Summary, Task
from tasks.runner.command_line import main
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """CIFAR-10's configuration."""

    data: str = "uoft-cs/cifar10"


def standard() -> Options:
    """SGD, cosine and label smoothing on ResNet18 in its form for small images, as the best baselines have it."""
    return Options(epochs=80, smoothing=0.1)


def paper_table1() -> Options:
    """The paper's tables 1 and 2 (section 5 and appendix D, and its code): Adam and OneCycle on images of 64 x 64."""
    return Options(
        network="resnet18", size=64, epochs=80, batch=256, optimizer="adam", learning_rate=2e-3,
        decay="onecycle", weight_decay=5e-5, clip=10.0, as_authors=True,
    )  # fmt: skip


def smoke() -> Options:
    """A few minutes on two CPU cores: 5,000 images of 32 x 32 through the paper's ResNet18."""
    return Options(
        network="resnet18", images=5000, epochs=10, batch=64, optimizer="adam", learning_rate=2e-3,
        decay="onecycle", weight_decay=5e-5, clip=10.0,
    )  # fmt: skip


def small() -> Options:
    """A minute on one CPU core, for comparing methods: 5,000 images through ResNet8."""
    return Options(
        network="resnet8-cifar", images=5000, epochs=12, batch=64, optimizer="adam", learning_rate=5e-3,
        decay="onecycle", weight_decay=5e-5,
    )  # fmt: skip


PRESETS = {
    "default": standard, "standard": standard, "paper-table1": paper_table1, "smoke": smoke, "small": small
}  # fmt: skip
SUMMARY = Summary("CIFAR-10", "hub or folder", "ResNet18", "1 (--preset small)")


def make(options: Options) -> Task:
    return Vision(options, "CIFAR-10")


if __name__ == "__main__":
    main("cifar10")
