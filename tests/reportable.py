"""Networks for ``python -m earlycrop.report tests.reportable:NAME``, with and without errors."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

NUMBER = 3


def mlp(hidden: int = 10, name: str = "") -> nn.Module:
    print("a line that the network prints")
    assert name in ("", "a word")
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 8), nn.ReLU(), nn.Linear(8, 3))


def pair() -> tuple[nn.Module, Tensor]:
    return mlp(), torch.zeros(5, 6)


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.Linear(4, 9))


class Two(nn.Module):
    """Called with tokens and floats."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
        return self.out(self.embedding(tokens) + x)


def attention() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)), torch.zeros(2, 5, 8)


ready = mlp()


def swin() -> tuple[nn.Module, Tensor]:
    from earlycrop.utils.torchvision_compat import load_torchvision

    return load_torchvision("torchvision.models").swin_t(weights=None), torch.zeros(1, 3, 224, 224)


def no_module() -> str:
    return "a string"


def script() -> tuple[nn.Module, Tensor]:
    return torch.jit.trace(nn.Linear(6, 3), torch.zeros(5, 6)), torch.zeros(5, 6)


def lazy() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)), torch.zeros(5, 6)


def fails() -> nn.Module:
    raise KeyError("no such key")


def leaves() -> nn.Module:
    sys.exit("goodbye")


class Leaves(nn.Module):
    """Exits in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        sys.exit("goodbye")


def hangs() -> nn.Module:
    """Never returns, and gives no other thread a turn."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    return nn.Identity()


class Waits(nn.Module):
    """Waits in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        time.sleep(600)
        return self.two(self.one(x))
