"""Batches with one example, one value a channel or one step: each gives a score, or an error that says what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop import CRITERIA
from earlycrop.scoring.criteria import CriterionName
from earlycrop.scoring.scores import weight_scores
from tests.toy import Net

DENSE = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
CONVOLUTION = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)


def recurrent() -> nn.Module:
    lstm, head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
    return Net(lambda m, x: m.head(m.lstm(x)[0][:, -1]), lstm=lstm, head=head)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("name", list(CRITERIA))
@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Sequential(*DENSE), (1, 4)), (nn.Sequential(*CONVOLUTION), (1, 2, 3, 3)), (recurrent(), (5, 1, 4))],
)
def test_all_criteria_score_the_smallest_batches(model: nn.Module, shape: tuple[int, ...], name: str) -> None:
    batch = torch.randn(shape), torch.ones(shape[0], dtype=torch.long)
    scores = weight_scores(model, CRITERIA[name], cross_entropy, [batch])
    assert scores
    assert all(bool(score.isfinite().all()) for score in scores.values())


@pytest.mark.parametrize("criterion", ["snip", "crop"])
@pytest.mark.parametrize(("layers", "shape"), [(DENSE, (1, 4)), (CONVOLUTION, (1, 2, 3, 3))])
def test_one_value_a_channel_has_no_batch_statistics(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...], criterion: CriterionName
) -> None:
    batches = [(torch.randn(shape), torch.tensor([1]))]
    model = nn.Sequential(*layers)
    before = [t.clone() for t in model.state_dict().values()]
    with pytest.raises(ValueError, match=r"Give batches of more examples, or statistics='running'"):
        earlycrop.prune(model, cross_entropy, batches, criterion=criterion, statistics="batch")
    assert all(map(torch.equal, before, model.state_dict().values()))
