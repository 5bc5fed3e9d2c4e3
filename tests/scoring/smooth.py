"""A network and a loss that have second derivatives everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.toy import mlp


def plain() -> nn.Module:
    torch.manual_seed(1)
    return mlp(4, 6, 5, 2, activation=nn.Tanh).double()


def square(output: Tensor, x: Tensor) -> Tensor:
    return (output - x[:, :2]).square().mean()
