"""CIFAR-100 (Krizhevsky 2009): 32 x 32 photographs of a hundred kinds of things."""

from __future__ import annotations

from dataclasses import dataclass

from tasks import Summary, Task
from tasks.runner.command_line import main
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """CIFAR-100's configuration."""

    data: str = "uoft-cs/cifar100"


def standard() -> Options:
    """SGD, cosine and label smoothing on ResNet18 in its form for small images, as the best baselines have it."""
    return Options(epochs=80, smoothing=0.1)


def paper() -> Options:
    """The paper's table 5 (VGG16, without the one cycle; section 5, appendices C and E): Adam on turned images."""
    return Options(
        network="vgg16", size=64, epochs=80, batch=256, optimizer="adam", learning_rate=2e-3,
        decay="none", weight_decay=5e-5, clip=10.0, rotation=15.0, as_authors=True,
    )  # fmt: skip


PRESETS = {"default": standard, "standard": standard, "paper": paper}
SUMMARY = Summary("CIFAR-100", "hub or folder", "ResNet18", "for a GPU")


def make(options: Options) -> Task:
    return Vision(options, "CIFAR-100")


if __name__ == "__main__":
    main("cifar100")
