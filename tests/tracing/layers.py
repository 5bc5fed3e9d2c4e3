"""A network of two layers side by side and one after them, with a forward of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tests.toy import Net

Forward: TypeAlias = Callable[..., Tensor]


def rows() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 5, dtype=torch.float64)


def net(forward: Forward, **modules: nn.Module) -> Net:
    """Two layers of 8 channels, ``a`` and ``c``, and a last one, ``b``, unless others are given."""
    torch.manual_seed(0)
    layers = {"a": nn.Linear(5, 8), "c": nn.Linear(5, 8), "b": nn.Linear(8, 3)}
    return Net(forward, **{**layers, **modules}).double()
