"""Operations to put between two layers, as tables by the name of the operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

Functions: TypeAlias = dict[str, Callable[[Tensor], Tensor]]
Modules: TypeAlias = dict[str, Callable[[], nn.Module]]

WIDTH = 8
"""The number of channels that an operation is given, along dimension 1."""
SHAPES = {"rows": (6, WIDTH), "conv1d": (2, WIDTH, 12), "conv2d": (2, WIDTH, 6, 6), "conv3d": (2, WIDTH, 4, 4, 4)}
"""The shape of what an operation is given, by the layer before it: a linear layer, or a convolution."""
