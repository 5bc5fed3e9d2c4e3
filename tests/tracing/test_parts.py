"""Parts of a dimension that differ in size: their widths follow a cut, or the channels stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop import shrink, trace
from tests.oracles import certified, some_nodes
from tests.toy import Net

VECTORS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()


class Mixed(nn.Module):
    """Each part of the channels goes through a convolution of its own, as in MixNet and InceptionNeXt."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.sizes = sizes
        self.first = nn.Conv1d(3, sum(sizes), 1)
        self.parts = nn.ModuleList(
            nn.Conv1d(n, n, 2 * i + 1, padding=i, groups=n if i else 1) for i, n in enumerate(sizes)
        )
        self.last = nn.Conv1d(sum(sizes), 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).split(list(self.sizes), 1)
        return self.last(torch.cat([f(part) for f, part in zip(self.parts, parts, strict=True)], 1).relu())


def images() -> Tensor:
    return torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(("sizes", "nodes"), [((5, 3), 2 * 5 + 3), ([2, 7, 4], 2 * 2 + 7 + 4), ((4, 4, 4), 2 * 4)])
@pytest.mark.parametrize("kind", [list, tuple])
def test_sizes_in_a_list_or_tuple_follow_their_parts(sizes: Any, nodes: int, kind: Any, tmp_path: Path) -> None:
    model = Mixed(kind(sizes)).double()
    certified(model, images(), nodes)
    assert type(model.sizes) is kind
    assert list(model.sizes) == [part.in_channels for part in model.parts] != list(sizes)
    earlycrop.save(model, tmp_path)
    fresh = earlycrop.load(tmp_path, Mixed(kind(sizes)).double())
    assert fresh.sizes == model.sizes
    torch.testing.assert_close(fresh(images()), model(images()), rtol=0, atol=0)
    again = trace(fresh, images())
    shrink(fresh, again, some_nodes(again, 0.5, 1))


def test_sizes_of_parts_that_have_no_layer_of_their_own_follow() -> None:
    """A gated block as in MambaOut: of the values, one part is convolved, and the other is passed on."""

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, passed, convolved = self.up(x).split(self.sizes, -1)
        return self.down(gate.tanh() * torch.cat([passed, self.conv(convolved.mT).mT], -1))

    convolution = nn.Conv1d(3, 3, 3, padding=1, groups=3)
    model = Net(forward, up=nn.Linear(4, 16), conv=convolution, down=nn.Linear(8, 4)).double()
    model.sizes = (8, 5, 3)
    certified(model, torch.randn(2, 7, 4).double(), 8)
    gate, passed, convolved = model.sizes
    assert (gate, convolved) == (model.down.in_features, model.conv.in_channels)
    assert gate == passed + convolved < 8


def test_an_integer_follows_the_first_of_two_unequal_parts() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.up(x)
        return self.left(hidden[:, : self.width]) + self.right(hidden[:, self.width :].tanh())

    model = Net(forward, up=nn.Linear(6, 11), left=nn.Linear(4, 3), right=nn.Linear(7, 3)).double()
    model.width = 4
    certified(model, VECTORS, 11)
    assert model.width == model.left.in_features < 4


@pytest.mark.parametrize("width", range(4, 20))
def test_a_part_that_is_rounded_from_the_width_is_never_taken_for_another(width: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a(x)
        part = hidden.shape[-1] // 3
        return self.b(torch.cat([hidden[:, :part].tanh(), hidden[:, part:]], 1))

    model = Net(forward, a=nn.Linear(6, width), b=nn.Linear(width, 3)).double()
    graph = trace(model, VECTORS)
    for node in range(graph.count):  # 8 are four runs of 2, of which the first is a third, rounded down, after any cut
        dense = Net(forward, a=nn.Linear(6, width), b=nn.Linear(width, 3)).double()
        assert shrink(dense, trace(dense, VECTORS), [node]).difference <= 1e-10  # type: ignore[operator]


def test_further_samples_run_in_training_mode_if_that_has_other_splits() -> None:
    def training_runs(splits_more: bool) -> int:
        runs: list[bool] = []

        def forward(self: Any, x: Tensor) -> Tensor:
            runs.append(self.training)
            left, right = self.up(x).split(self.sizes, 1)
            if self.training and splits_more:
                left = torch.stack(left.unbind(0))
            return self.out(torch.cat([left.tanh(), right], 1))

        model = Net(forward, up=nn.Linear(6, 9), out=nn.Linear(9, 3)).double()
        model.sizes = (4, 5)
        assert trace(model, VECTORS).count == 9
        return sum(runs)

    assert training_runs(splits_more=True) == training_runs(splits_more=False) + 2  # of three samples


def test_a_part_of_a_width_in_training_mode_follows_too() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.up(x)
        left, right = hidden.split(self.sizes, 1)
        if self.training:
            left = left + torch.zeros_like(hidden).split(self.sizes, 1)[0]
        return self.out(torch.cat([left.tanh(), right], 1))

    model = Net(forward, up=nn.Linear(6, 9), out=nn.Linear(9, 3)).double()
    model.sizes = (4, 5)
    certified(model, VECTORS, 9)
    assert sum(model.sizes) == model.out.in_features < 9
    model.train()(VECTORS)
