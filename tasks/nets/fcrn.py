"""Fully convolutional residual networks for depth: a ResNet, and up-projections in the place of its classifier.

Source: Laina, Rupprecht, Belagiannis, Tombari, Navab: "Deeper Depth Prediction with Fully Convolutional Residual
Networks", 3DV 2016, section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop.utils.torchvision_compat import load_torchvision
from earlycrop.utils.validation import describe_unknown
from tasks.runner.errors import first_line

ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""torchvision's names."""
WEIGHTS = "IMAGENET1K_V1"
TYPICAL = 2.0
"""Metres that predictions start around: a room's."""


class UpConvolution(nn.Module):
    """Twice the height and width, and a 5x5 convolution: (N, inputs, H, W) to (N, outputs, 2H, 2W).

    Unpooling puts each value at the upper left of a 2x2 cell of zeros, so three quarters of what a 5x5 window covers
    are zeros. The transposed convolution leaves them out (section 3.2): a quarter of the multiplications, and the same
    outputs up to rounding. Deviation: no bias, as a batch norm follows.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 5, 5))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        turned = self.weight.flip(2, 3).transpose(0, 1)
        return functional.conv_transpose2d(x, turned, stride=2, padding=2, output_padding=1)


class UpProjection(nn.Module):
    """Up-convolution with a residual (section 3.2, figure 2c): a 5x5 and a 3x3 convolution, and a 5x5 as shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = UpConvolution(inputs, outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = UpConvolution(inputs, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        main = self.bn2(self.conv(functional.relu(self.bn1(self.up(x)))))
        return functional.relu(main + self.bn3(self.shortcut(x)))


class FCRN(nn.Module):
    """Depths in metres of colour images: (N, 3, H, W) to (N, h, w), with h = 16 ceil(H / 32), and w alike.

    So 228 x 304 give 128 x 160. After the encoder of C channels, a 1x1 convolution leaves C / 2, and each of the four
    up-projections half of what it gets. Deviations: no dropout before the prediction, and no ReLU after it; its bias
    starts at ``TYPICAL``, so that training need not begin with finding the rooms' size.
    """

    def __init__(self, encoder: str = "resnet50", pretrained: bool = False) -> None:
        super().__init__()
        resnet = _resnet(encoder, pretrained)
        width = resnet.fc.in_features
        kept = [(name, child) for name, child in resnet.named_children() if name not in ("avgpool", "fc")]
        self.encoder = nn.Sequential(OrderedDict(kept))
        self.reduction = nn.Conv2d(width, width // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width // 2)
        self.decoder = nn.Sequential(*(UpProjection(width >> i, width >> i + 1) for i in range(1, 5)))
        self.prediction = nn.Conv2d(width >> 5, 1, 3, padding=1)
        nn.init.constant_(self.prediction.bias, TYPICAL)  # type: ignore[arg-type]  # it has one

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, h, w) metres."""
        depths: Tensor = self.prediction(self.decoder(self.bn(self.reduction(self.encoder(images)))))
        return depths.squeeze(1)


def _resnet(name: str, pretrained: bool) -> Any:
    """torchvision's ResNet, with its weights of ImageNet where they are asked for.

    Raises:
        ValueError: there is none of that name, or its weights are neither here nor within reach.
    """
    models: Any = load_torchvision("torchvision.models")
    if name not in ENCODERS:
        raise ValueError(describe_unknown("encoder", name, ENCODERS))
    try:
        return models.get_model(name, weights=WEIGHTS if pretrained else None)
    except (OSError, RuntimeError) as error:  # no network, and a file that is not what its name says
        raise ValueError(
            f"{name}'s pretrained weights are neither in torch's cache nor within reach ({first_line(error)}): go "
            "online once, or leave them out with --no-pretrained"
        ) from None
