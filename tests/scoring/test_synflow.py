"""SynFlow against the paths of a network summed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from earlycrop import CRITERIA, FlowError
from earlycrop.scoring.scores import weight_scores


class Path(nn.Module):
    """Two linear layers and a batch norm: the synaptic flow through it is a sum of products."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, eps=0), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x)).relu())


def test_synflow_by_hand() -> None:
    """one = ((1, -2), (3, 4)), two = (-5, 6): R = 5 (1 + 2) + 6 (3 + 4) a row, whatever the signs and the data."""
    model = Path().double()
    with torch.no_grad():
        model.one.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model.two.weight.copy_(torch.tensor([[-5.0, 6.0]]))
        model.two.bias.fill_(-7.0)
    before = {name: t.clone() for name, t in model.state_dict().items()}

    def unread(model: nn.Module, batch: Tensor) -> Tensor:
        assert model(batch) is None, "only the call matters"
        raise AssertionError

    scores = weight_scores(model, CRITERIA["synflow"], unread, [torch.full((3, 2), torch.nan).double()])
    assert scores["one.weight"].tolist() == [[15.0, 30.0], [54.0, 72.0]]  # 3 rows of 5 |w|, and of 6 |w|
    assert scores["two.weight"].tolist() == [[45.0, 126.0]]  # 3 rows of 5 (1 + 2) and 6 (3 + 4)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training
    assert not model._forward_hooks
    with pytest.raises(FlowError, match="the loss does not call the model"):
        weight_scores(model, CRITERIA["synflow"], lambda m, b: m.one(b).sum(), [torch.ones(1, 2).double()])
