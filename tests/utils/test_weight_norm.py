"""Layers under weight norm, torch's parametrization and its older hook: cuts, scores and copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from earlycrop import CRITERIA, prune, trace
from earlycrop.scoring.scores import node_scores
from tests.oracles import certified
from tests.toy import Net, loss, mlp, vectors

Normed = Callable[..., nn.Module]
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
BOTH = pytest.mark.parametrize("normed", [nn.utils.weight_norm, parametrizations.weight_norm])


@BOTH
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ReLU(), nn.Softplus()])
def test_channels_that_a_transposed_convolution_under_weight_norm_consumes_are_cut(
    normed: Normed, activation: nn.Module
) -> None:
    """The norm is taken of what belongs to an input channel, so that the masked network has a length of zero there."""
    up = normed(nn.ConvTranspose1d(16, 12, 4, 2))
    layers = nn.Conv1d(3, 16, 3), activation, up, activation, nn.Conv1d(12, 1, 3)
    graph = certified(nn.Sequential(*layers).double(), torch.randn(2, 3, 12).double(), 16)
    assert "a norm of weights is taken over it" in graph.report()
    assert up.in_channels < 16


@BOTH
@pytest.mark.parametrize("criterion", ["snip", "crop", "synflow"])
@pytest.mark.parametrize("gate", ["rows", "columns"])
def test_nodes_under_weight_norm_score_as_without_it(normed: Normed, criterion: str, gate: Any) -> None:
    plain, batches = mlp().double(), [(x.double(), y) for x, y in vectors()]
    with_norm = copy.deepcopy(plain)
    normed(with_norm[0])
    expected, scores = (
        node_scores(m, trace(m, batches[0][0]), CRITERIA[criterion], loss, batches, gate) for m in (plain, with_norm)
    )
    torch.testing.assert_close(scores[:16], expected[:16])


@BOTH
def test_a_layer_without_a_certificate_stays_beside_weight_norm(normed: Normed) -> None:
    """The older hook keeps the weight that it computed, with its graph, when the model is copied."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.c(self.b(x / torch.tensor([x.shape[-1]])).relu())

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 40), c=normed(nn.Linear(40, 3), dim=1))
    event = prune(model, loss, vectors(), sparsity=0.5)
    assert "a.weight" in event.uncertified
    assert model.a.out_features == 16
    assert model.b.out_features < 40
