"""Single weights never cut a network in two, whatever couples its channels."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import prune, trace
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.targets import max_remaining
from earlycrop.utils.torchvision_compat import load_torchvision
from tests.networks import build, graph_of
from tests.toy import loss, mlp, vectors


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
    ("make", "shape", "max_kept"),
    [
        (SelfAttention, (6, 5, 3), 12),
        (Flattened, (6, 5, 3), 8),
        (grouped, (6, 3, 9), 8),
        (recurrent, (6, 5, 3), 60),
    ],
)
def test_the_kept_path_carries_the_input_to_the_output(
    make: Callable[[], nn.Module], shape: tuple[int, ...], max_kept: int
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
        assert sum(int(k.sum()) for k in kept.values()) <= max_kept


def test_few_weights_have_to_stay_of_many() -> None:
    """A channel that all blocks add to, and read, does not keep a weight of each in every one of them."""
    model = load_torchvision("torchvision.models").resnet18(num_classes=10)
    matrices = {n: p.detach().abs() for n, p in model.named_parameters() if p.ndim > 1}
    kept = path_weights(trace(model, torch.randn(1, 3, 64, 64)), matrices)
    assert all(bool(k.any()) for k in kept.values())
    assert sum(int(k.sum()) for k in kept.values()) <= 4 * len(kept)


def lives(model: nn.Sequential) -> bool:
    """Whether some input reaches some output through weights that are not zero."""
    reached = torch.ones(6, dtype=torch.bool)
    for layer in model[::2]:
        reached = ((layer.weight != 0) & reached).any(1)
    return bool(reached.any())


@pytest.mark.parametrize(
    ("sparsity", "criterion"),
    [
        pytest.param(share, name, marks=[] if share == 0.98 or name == "crop" else pytest.mark.slow)
        for share in (0.5, 0.95, 0.98, 0.999)
        for name in ("random", "magnitude", "crop", "grasp", "snip")
    ],
)
def test_single_weights_never_cut_a_network_in_two(criterion: str, sparsity: float) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = mlp(6, 10, 10, 3)
        with torch.no_grad():
            model[4].weight.mul_(1e-3)  # a head of little weight, whose last one need not be where the trunk is alive
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "asked to remove|hardly anything is left")
            event = prune(model, loss, vectors(), criterion, sparsity, structured=False, rounds=3)
        assert lives(model)
        assert event.left == max(max_remaining(190, sparsity), 3)


@pytest.mark.parametrize("name", ["conv-norm", "residual", "concatenation", "lstm", "gru", "heads", "tied"])
def test_a_path_of_weights_is_left_in_every_network(name: str) -> None:
    """At the highest sparsity there is, every output still depends on the parameters of every layer it passes."""
    model, example = build(name)
    graph = graph_of(name)
    scores = {n: torch.rand_like(p) for n, p in model.named_parameters() if p.ndim > 1}
    kept = path_weights(graph, scores)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in kept:
                p.mul_(kept[n])
    model.eval()
    outputs = model(example)
    total = sum(t.square().sum() for t in (outputs.values() if isinstance(outputs, dict) else [outputs]))
    total.backward()
    assert all(bool(k.any()) for k in kept.values())
    assert sum(int(k.sum()) for k in kept.values()) <= 2 * len(kept) ** 2
    for n in ("stem.weight", "conv.weight", "embedding.weight", "trunk.0.weight"):
        if n in kept:
            assert bool(model.get_parameter(n).grad.any()), n  # type: ignore[union-attr]
