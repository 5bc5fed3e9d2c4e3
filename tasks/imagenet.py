"""ImageNet (Russakovsky et al. 2015): photographs of a thousand kinds of things, of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks import Summary, Task
from tasks.runner.command_line import main
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """ImageNet's configuration."""

    data: str = "ILSVRC/imagenet-1k"
    network: str = "resnet50-imagenet"
    size: int = 224
    padding: int = 0
    smallest_crop: float = 0.08


def standard() -> Options:
    """ResNet50 in 90 epochs of SGD with a cosine (He et al. 2016; Goyal et al. 2017), with label smoothing."""
    return Options(epochs=90, batch=256, weight_decay=1e-4, smoothing=0.1, validation=0.01)


def paper() -> Options:
    """The paper's table 7: VGG16; what appendix E.6 leaves open is our recipe's."""
    return replace(standard(), network="vgg16_bn", learning_rate=0.05, as_authors=True)


PRESETS = {"default": standard, "standard": standard, "paper": paper}
SUMMARY = Summary("ImageNet", "hub or folder", "ResNet50", "for a GPU")


def make(options: Options) -> Task:
    return Vision(options, "ImageNet")


if __name__ == "__main__":
    main("imagenet")
