"""Image classifiers: the paper's, the standard ones for small images, and those of torchvision and timm by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.utils.torchvision_compat import load_torchvision
from earlycrop.utils.validation import describe_unknown
from tasks.runner.errors import first_line

SLOPE = 0.05
"""Of the paper's leaky ReLU."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


def cifar_resnet(depth: int, classes: int) -> nn.Module:
    """The ResNet of He et al. 2016, section 4.2: 6n + 2 layers in three stages of 16, 32 and 64 channels."""
    blocks = (depth - 2) // 6
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for width in (16, 32, 64):
        for i in range(blocks):
            layers.append(BasicBlock(inputs, width, 2 if i == 0 and width > 16 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def library(name: str, classes: int) -> Any:
    """torchvision's classifiers, with the two ResNeXts of the paper that it does not name."""
    models: Any = load_torchvision("torchvision.models")
    if wide := re.fullmatch(r"resnext101_32x(16|48)d", name):
        bottleneck = models.resnet.Bottleneck
        return models.ResNet(bottleneck, [3, 4, 23, 3], num_classes=classes, groups=32, width_per_group=int(wide[1]))
    return models.get_model(name, weights=None, num_classes=classes)


def paper_resnet(name: str, classes: int, size: int) -> nn.Module:
    """The paper's: torchvision's stem and stages, then all positions into 256 neurons in the place of the mean."""
    net = library(name, classes)
    side = -(-size // 32)
    net.avgpool = nn.Identity()
    net.fc = nn.Sequential(
        nn.Dropout(0.3),
        nn.Linear(net.fc.in_features * side * side, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, classes),
    )
    return _papers(net)


def paper_vgg16(classes: int, size: int) -> nn.Module:
    """The paper's: VGG16 with batch norms, a last convolution of 1024 channels and two layers of 4096 neurons."""
    models: Any = load_torchvision("torchvision.models")
    net = models.vgg16_bn(weights=None, num_classes=classes)
    net.features[40], net.features[41] = nn.Conv2d(512, 1024, 3, padding=1), nn.BatchNorm2d(1024)
    side = size // 32
    net.avgpool = nn.Identity()
    hidden = [nn.Linear(1024 * side * side, 4096), nn.ReLU(), nn.Dropout(0.3)]
    net.classifier = nn.Sequential(*hidden, nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4096, classes))
    return _papers(net)


def _papers(net: nn.Module) -> nn.Module:
    """Leaky ReLU of slope 0.05, and orthogonal weights."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(SLOPE, inplace=True))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight, nn.init.calculate_gain("leaky_relu", SLOPE))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def small_stem(net: Any) -> nn.Module:
    """A ResNet for small images: a first convolution of 3x3 without a stride, and no pooling after it."""
    net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    module: nn.Module = net
    return module


def small_vgg16(classes: int) -> nn.Module:
    """VGG16 with batch norms and a single linear layer on the mean over positions, as pruning benchmarks have it."""
    models: Any = load_torchvision("torchvision.models")
    net = models.vgg16_bn(weights=None, num_classes=classes)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, classes)
    module: nn.Module = net
    return module


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet18": lambda classes, size: paper_resnet("resnet18", classes, size),
    "resnet50": lambda classes, size: paper_resnet("resnet50", classes, size),
    "vgg16": paper_vgg16,
    "resnet18-imagenet": lambda classes, size: library("resnet18", classes),
    "resnet50-imagenet": lambda classes, size: library("resnet50", classes),
    "resnet18-cifar": lambda classes, size: small_stem(library("resnet18", classes)),
    "resnet50-cifar": lambda classes, size: small_stem(library("resnet50", classes)),
    "vgg16-cifar": lambda classes, size: small_vgg16(classes),
    "resnet8-cifar": lambda classes, size: cifar_resnet(8, classes),
    "resnet20-cifar": lambda classes, size: cifar_resnet(20, classes),
    "resnet56-cifar": lambda classes, size: cifar_resnet(56, classes),
    "resnext101_32x16d": lambda classes, size: library("resnext101_32x16d", classes),
    "resnext101_32x48d": lambda classes, size: library("resnext101_32x48d", classes),
}
"""Name -> (classes, side of the input) -> a network. torchvision's own are under their names, where no row is."""


def network(name: str, classes: int, size: int) -> nn.Module:
    """The network of that name, freshly initialised, for images of ``size`` x ``size``.

    Raises:
        ValueError: there is none of that name.
    """
    if name in NETWORKS:
        return NETWORKS[name](classes, size)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), classes)
    try:
        named: nn.Module = library(name, classes)
    except ValueError:
        raise ValueError(
            describe_unknown("network", name, NETWORKS) + ", one of torchvision's classifiers by its name, or timm:NAME"
        ) from None
    return named


def _timm(name: str, classes: int) -> nn.Module:
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"timm:{name} needs timm, which is not installed: pip install timm") from None
    if not timm.is_model(name):
        raise ValueError(f"timm has no model '{name}': timm.list_models() has their names")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return model


def require_fit(name: str, classes: int, size: int) -> None:
    """Raise ValueError where the network of that name does not make logits of such images; nothing is computed."""
    with torch.device("meta"):
        try:
            outputs = network(name, classes, size)(torch.empty(2, 3, size, size))
        except (RuntimeError, AssertionError, ZeroDivisionError) as error:
            reason = first_line(error)
            raise ValueError(
                f"{name} does not take images of {size} x {size}: give another --size ({reason})"
            ) from None
    if not isinstance(outputs, Tensor) or outputs.shape != (2, classes):
        raise ValueError(f"{name} does not return logits alone when it is trained: take another network")
