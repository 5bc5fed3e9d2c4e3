"""Small networks, and batches of theirs, that the tests of GPUs train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.toy import Batch, Net, data, network


def recurrent(kind: str = "LSTM") -> nn.Module:
    """A recurrent layer and a linear one after its last step; always with the same weights."""
    torch.manual_seed(0)
    layers = {"rnn": getattr(nn, kind)(5, 8, batch_first=True), "out": nn.Linear(8, 3)}
    return Net(lambda m, x: m.out(m.rnn(x)[0][:, -1]), **layers)


def sequences() -> list[Batch]:
    """Sequences for ``recurrent``: three classes told apart by the inputs that are large."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (48,), generator=g)
    x = torch.randn(48, 4, 5, generator=g) * 0.3
    x[torch.arange(48), :, y] += 1
    return list(zip(x.split(16), y.split(16), strict=True))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Batch]]]] = {
    "convolutions": (network, data),
    "LSTM": (recurrent, sequences),
}
"""Name -> what makes the network, and its batches."""


def moved(value: Any, device: torch.device | str) -> Any:
    """The same on a device; the tensors in lists, tuples and dicts, too."""
    return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, value)
