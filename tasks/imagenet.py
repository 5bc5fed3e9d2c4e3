"""ImageNet (Russakovsky et al. 2015): photographs of a thousand kinds of things, of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks import Summary, Task
from tasks.vision.classification import Vision, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(VisionOptions):
    """ImageNet's configuration."""

    data: str = "ILSVRC/imagenet-1k"
    """Data set on the hub, or a folder: parquet files, a folder a class, or torchvision's CIFAR archives."""
    network: str = "resnet50-imagenet"
    """Classifier: one of ours, of torchvision by its name, or timm:NAME."""
    size: int = 224
    """Side of the images that the network is given."""
    padding: int = 0
    """Pixels of black around an image, of which a random window of its size is trained on."""
    smallest_crop: float = 0.08
    """Least share of an image's area that a random resized crop keeps in training; 1 is no such crop."""


def standard() -> Options:
    """ResNet50 in 90 epochs of SGD with a cosine (He et al. 2016; Goyal et al. 2017), with label smoothing."""
    return Options(preset="standard", epochs=90, batch=256, weight_decay=1e-4, smoothing=0.1, validation=0.01)


def paper() -> Options:
    """The paper's table 7: VGG16; what appendix E.6 leaves open is our recipe's."""
    return replace(standard(), preset="paper", network="vgg16_bn", learning_rate=0.05, as_authors=True)


def default() -> Options:
    """The standard recipe."""
    return replace(standard(), preset="default")


PRESETS = {"default": default, "standard": standard, "paper": paper}
SUMMARY = Summary("ImageNet", "hub or folder", "ResNet50", "for a GPU")


def make(options: Options) -> Task:
    return Vision(options, "ImageNet")


if __name__ == "__main__":
    from tasks.runner.command_line import main

    main("imagenet")
