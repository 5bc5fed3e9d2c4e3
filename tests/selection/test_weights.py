"""Which matrices lose single weights: trained weights of products, and what is asked for beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from earlycrop import Limits, prune, trace
from earlycrop.selection.weights import select_prunable
from tests.toy import Net, mlp, vectors
from tests.toy import loss as toy_loss


class Encoder(nn.Module):
    """A table, a class token, positions, a layer scale and a mixing matrix beside layers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.tied = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.other = nn.Embedding(11, 8)
        self.tied.weight = self.other.weight
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.scale, self.mix = nn.Parameter(torch.randn(8, 1)), nn.Parameter(torch.randn(8, 8))
        self.conv, self.up = nn.Conv1d(8, 8, 3, padding=1), nn.ConvTranspose1d(8, 8, 1)
        self.depthwise, self.lstm = nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.LSTM(8, 6, bidirectional=True)
        self.gru, self.attend = nn.GRU(12, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
        self.normed, self.norm = parametrizations.weight_norm(nn.Linear(8, 8)), nn.LayerNorm(8)

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(ids), -1, -1), self.table(ids) + self.other(ids)], 1) + self.positions
        h = (self.up(self.depthwise(self.conv(h.mT))) * self.scale).mT
        h = self.gru(self.lstm(h)[0])[0]
        h = self.attend(h, h, h, need_weights=False)[0] @ self.mix
        y: Tensor = self.tied(self.norm(self.normed(h)))
        return y


PRODUCTS = {
    "mix", "conv.weight", "up.weight", "depthwise.weight", "gru.weight_ih_l0", "gru.weight_hh_l0",
    "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l0_reverse", "lstm.weight_hh_l0_reverse",
    "attend.in_proj_weight", "attend.out_proj.weight", "normed.parametrizations.weight.original1",
}  # fmt: skip


def test_weights_of_products_convolutions_and_cells_are_pruned_and_nothing_else() -> None:
    model = Encoder()
    graph = trace(model, torch.randint(0, 11, (3, 4)))
    assert set(select_prunable(model, graph, Limits())) == PRODUCTS
    model.conv.weight.requires_grad_(False)
    assert set(select_prunable(model, graph, Limits())) == PRODUCTS - {"conv.weight"}
    included = select_prunable(model, graph, Limits(include=["table", "positions", "tied"]))
    assert set(included) == PRODUCTS - {"conv.weight"} | {"table.weight", "positions", "tied.weight"}


def test_a_weight_of_an_operation_without_a_rule_may_be_one_of_a_product() -> None:
    model = Net(lambda self, x: self.out(x @ torch.linalg.matrix_exp(self.generator)), out=nn.Linear(6, 3))
    model.generator = nn.Parameter(torch.randn(6, 6))
    assert "generator" in trace(model, torch.randn(4, 6)).product_weights


def test_the_weights_that_stay_are_not_touched() -> None:
    torch.manual_seed(0)
    model = Encoder()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(network: nn.Module, ids: Tensor) -> Tensor:
        value: Tensor = network(ids).square().mean()
        return value

    event = prune(model, loss, [torch.randint(0, 11, (3, 4))], "snip", 0.5, structured=False)
    dense = sum(before[name].numel() for name in PRODUCTS)
    zeros = {name: int((p == 0).sum()) for name, p in model.named_parameters() if p.ndim > 1}
    assert sum(zeros[name] for name in PRODUCTS) == dense - event.left == dense // 2
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if p.ndim > 1 and n not in PRODUCTS)


def test_without_any_weight_of_a_product_the_matrices_are_named() -> None:
    model = Net(lambda self, ids: self.table(ids).sum(1), table=nn.Embedding(11, 8))
    with pytest.raises(ValueError, match=r"no trained matrix is the weight of a .* cell \('table.weight'\)"):
        prune(model, lambda m, ids: m(ids).square().mean(), [torch.zeros(3, 2).long()], "snip", 0.5, structured=False)


@pytest.mark.parametrize("include", ["0", [3], ["*.missing"]])
def test_include_is_checked_as_exclude_is(include: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"include|no layer with a weight matrix matches"):
        prune(mlp(), toy_loss, vectors(), "snip", 0.5, structured=False, limits=Limits(include=include))
