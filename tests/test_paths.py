"""Single weights never cut a network in two, whatever couples its channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import trace
from earlycrop.selection.connectivity import path_weights
from earlycrop.utils.torchvision_compat import load_torchvision


class SelfAttention(nn.Module):
    """torch's own: one matrix makes queries, keys and values; there is no way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.attention(h, h, h, need_weights=False)[0])


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 12, 3, padding=1), nn.InstanceNorm1d(12, affine=True), nn.Conv1d(12, 12, 3, padding=1, groups=3),
        nn.ReLU(), nn.Conv1d(12, 8, 1, groups=2), nn.Conv1d(8, 4, 1),
    )  # fmt: skip


def recurrent() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.LSTM(3, 8, 2, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cells(x)[0])

    return Last()


class Flattened(nn.Module):
    """Positions before the channels of heads, which are cut by heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(5 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (made(x).unflatten(-1, (-1, 4)).transpose(1, 2) for made in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.head(mixed.transpose(1, 2).flatten(1))


@pytest.mark.parametrize(
    ("make", "shape", "most"),
    [
        (SelfAttention, (6, 5, 3), 12),
        (Flattened, (6, 5, 3), 8),
        (grouped, (6, 3, 9), 8),
        (recurrent, (6, 5, 3), 60),
    ],
)
def test_what_is_kept_at_least_carries_the_input_to_the_output(
    make: Callable[[], nn.Module], shape: tuple[int, ...], most: int
) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = make().double()
        x = torch.rand(shape, dtype=torch.float64)
        kept = path_weights(
            trace(model, x), {n: torch.rand(p.shape) for n, p in model.named_parameters() if p.ndim > 1}
        )
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_((p.abs() + 0.1) * kept.get(name, torch.tensor(1.0)))
        x.requires_grad_()
        model(x).sum().backward()
        assert x.grad is not None
        assert bool(x.grad.abs().sum() > 0), seed
        assert sum(int(k.sum()) for k in kept.values()) <= most


def test_few_weights_have_to_stay_of_many() -> None:
    """A channel that all blocks add to, and read, does not keep a weight of each in every one of them."""
    model = load_torchvision("torchvision.models").resnet18(num_classes=10)
    matrices = {n: p.detach().abs() for n, p in model.named_parameters() if p.ndim > 1}
    kept = path_weights(trace(model, torch.randn(1, 3, 64, 64)), matrices)
    assert all(bool(k.any()) for k in kept.values())
    assert sum(int(k.sum()) for k in kept.values()) <= 4 * len(kept)
