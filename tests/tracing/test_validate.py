"""Trial cuts of modules that look alike: what was found for one is assumed for all, and then checked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import shrink, trace
from earlycrop.tracing.trial_cut import Trials
from tests.oracles import some_nodes
from tests.toy import Net


class Heads(nn.Module):
    """Attention whose number of heads, or whose width of one, is an attribute; or it is written into the forward."""

    def __init__(self, kept: str, heads: int = 4) -> None:
        super().__init__()
        self.kept, self.heads = kept, heads
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        size = {"heads": (self.heads, -1), "written": (4, 2), "width": (-1, 2)}[self.kept]
        q, k, v = (t.view(*x.shape[:2], *size).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = (q @ k.mT).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Stack(nn.Module):
    def __init__(self, *kept: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(map(Heads, kept))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = nn.functional.layer_norm(block(x), (8,))
        return self.last(x)  # type: ignore[no-any-return]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that trial cuts were made in, in order."""
    roots: list[str] = []
    check_cut = Trials.check_cut

    def record_root(self: Trials, graph: Any, remove: Any, tested: Any, root: str = "", *rest: Any, **more: Any) -> Any:
        roots.append(root)
        return check_cut(self, graph, remove, tested, root, *rest, **more)

    monkeypatch.setattr(Trials, "check_cut", record_root)
    return roots


def cut(*kept: str) -> tuple[nn.Module, int]:
    """The network with some heads gone, and how many there were to go."""
    torch.manual_seed(0)
    model, x = Stack(*kept).double(), torch.randn(2, 5, 8).double()
    graph = trace(model, x)
    if graph.count:
        assert shrink(model, graph, some_nodes(graph, 0.5, 0)).difference <= 1e-10  # type: ignore[operator]
    return model, graph.count


def test_an_attribute_that_follows_in_one_module_follows_in_those_alike(tried: list[str]) -> None:
    model, count = cut(*["heads"] * 6)
    assert count == 6 * 4
    assert {block.heads for block in model.blocks} != {4}  # type: ignore[union-attr]
    for block in model.blocks:  # type: ignore[union-attr]
        assert block.heads == block.out.in_features // 2
    assert set(tried) == {"", "blocks.0"}, "the others were tried with the whole network only"


def test_a_module_that_only_looks_alike_is_found(tried: list[str]) -> None:
    for kept in (["width", "written", "width"], ["heads", "written", "width"]):
        tried.clear()
        model, count = cut(*kept)
        assert count == 2 * 4, "the written ones stay whole"
        assert model.blocks[kept.index("written")].out.in_features == 8  # type: ignore[union-attr, index]
        assert "blocks.1" in tried, "it was tried by itself in the end"


def test_groups_far_from_a_fault_are_not_tried_alone(tried: list[str]) -> None:
    class Framed(nn.Module):
        """Two hidden layers before a block with a fault, and two after it."""

        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = (nn.Sequential(*map(nn.Linear, (8, 7, 6), (7, 6, 8))) for _ in range(2))
            self.block = Heads("heads")

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.block(self.before(x)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    assert trace(Framed().double(), torch.randn(2, 5, 8).double()).count == 7 + 6 + 8 + 4 + 7 + 6
    assert set(tried) == {"", "block"}


def test_heads_that_all_layers_have_in_common_follow_in_all_of_them() -> None:
    """A bias with a row a head is added in every layer, and each keeps the number of heads for itself."""

    class Biased(Heads):
        def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
            q, k, v = (t.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            y = (q @ k.mT + bias[:, None, None]).softmax(-1) @ v
            return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Biased("heads") for _ in range(7))
            self.bias, self.last = nn.Parameter(torch.randn(4)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x, self.bias)
            return self.last(nn.functional.layer_norm(x, (8,)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Shared().double(), torch.randn(2, 5, 8).double()
    graph = trace(model, x)
    assert graph.count == 4
    assert shrink(model, graph, [1]).difference <= 1e-10  # type: ignore[operator]
    assert {block.heads for block in model.blocks} == {3}


def test_a_failing_trial_cut_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    model = Net(lambda self, x: self.b(self.a(x).view(-1, 2, 4).sum(1)), a=nn.Linear(6, 8), b=nn.Linear(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(model, torch.randn(3, 6))
    assert capfd.readouterr().err == ""
