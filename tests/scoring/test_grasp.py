"""GraSP as its authors compute it: logits over a temperature of 200, batch statistics, the sum of two halves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import CRITERIA, prune
from earlycrop.scoring.scores import weight_scores
from earlycrop.scoring.temperature import TemperedLogits

Batch = tuple[Tensor, Tensor]


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).double()


def halves() -> list[Batch]:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(4).repeat(5)
    centres = torch.randn(4, 3, 9, 9, generator=g, dtype=torch.float64)
    return [(centres[labels] + torch.randn(20, 3, 9, 9, generator=g, dtype=torch.float64), labels) for _ in range(2)]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def scores_of_the_paper(model: nn.Module, data: list[Batch]) -> list[Tensor]:
    """- w Hg of the convolutions' and linear layers' weights, in training mode; the largest are removed."""
    model = copy.deepcopy(model).train()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    g = [torch.zeros_like(w) for w in weights]
    for x, y in data:
        for total, part in zip(
            g, torch.autograd.grad(functional.cross_entropy(model(x) / 200, y), weights), strict=True
        ):
            total += part
    for x, y in data:
        value = functional.cross_entropy(model(x) / 200, y)
        with_graph = torch.autograd.grad(value, weights, create_graph=True)
        sum((a * b).sum() for a, b in zip(g, with_graph, strict=True)).backward()  # type: ignore[union-attr]
    return [-w.detach() * w.grad for w in weights if w.grad is not None]


def removed(scores: list[Tensor], share: float) -> Tensor:
    flat = torch.cat([s.flatten() for s in scores])
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[flat.topk(int(share * flat.numel())).indices] = True
    return mask


def share_of_expected(model: nn.Module, expected: Tensor) -> float:
    """How much of what is to be kept is kept."""
    kept = torch.cat([(p != 0).flatten() for p in model.parameters() if p.ndim > 1])
    return float((kept & expected).sum() / expected.sum())


def test_a_fresh_network_keeps_the_weights_that_the_authors_code_keeps() -> None:
    model, plain, data = convolutions(), convolutions(), halves()
    expected = ~removed(scores_of_the_paper(model, data), 0.9)
    prune(model, loss, data, "grasp", 0.9, structured=False)
    assert share_of_expected(model, expected) > 0.95
    untempered = replace(CRITERIA["grasp"], temperature=1.0, batch_statistics=False)
    prune(plain, loss, data, untempered, 0.9, structured=False, statistics="running")
    assert share_of_expected(plain, expected) < 0.5


def test_scores_are_those_of_logits_over_the_temperature() -> None:
    model, data = convolutions(), halves()
    criterion = CRITERIA["grasp"]
    by_hand = weight_scores(
        model,
        replace(criterion, temperature=1.0),
        lambda m, b: functional.cross_entropy(m(b[0]) / 200, b[1]),
        data,
        True,
    )
    for name, score in weight_scores(model, criterion, loss, data, True).items():
        torch.testing.assert_close(score, by_hand[name])


@pytest.mark.parametrize(
    ("tempered", "plain"),
    [
        (lambda x, y: functional.cross_entropy(x, y), lambda x, y: functional.cross_entropy(x / 4, y)),
        (lambda x, y: nn.CrossEntropyLoss()(x, y), lambda x, y: functional.cross_entropy(x / 4, y)),
        (lambda x, y: functional.cross_entropy(input=x, target=y), lambda x, y: functional.cross_entropy(x / 4, y)),
        (lambda x, y: x.log_softmax(-1), lambda x, y: (x / 4).log_softmax(-1)),
        (lambda x, y: torch.log_softmax(x, -1), lambda x, y: (x / 4).log_softmax(-1)),
        (lambda x, y: nn.LogSoftmax(-1)(x), lambda x, y: (x / 4).log_softmax(-1)),
        (
            lambda x, y: nn.BCEWithLogitsLoss()(x, x.detach().sigmoid()),
            lambda x, y: functional.binary_cross_entropy_with_logits(x / 4, x.sigmoid()),
        ),
        (lambda x, y: functional.mse_loss(x, x.detach() + 1), lambda x, y: torch.ones(()).double()),  # no logits
        (lambda x, y: x.softmax(-1), lambda x, y: x.softmax(-1)),  # as attention takes it
    ],
)
def test_what_counts_as_logits(tempered: Callable[..., Any], plain: Callable[..., Any]) -> None:
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    with TemperedLogits(4.0):
        got = tempered(x, y)
    torch.testing.assert_close(got, plain(x, y))


def test_fresh_batch_norms_are_scored_with_the_statistics_of_the_batch() -> None:
    data = halves()
    fresh, trained = convolutions(), convolutions()
    trained(data[0][0])  # a training step's forward, which moves the running statistics
    for model, statistics in ((fresh, "batch"), (trained, "running")):
        auto, explicit = copy.deepcopy(model), copy.deepcopy(model)
        prune(auto, loss, data, "snip", 0.8, structured=False)
        prune(explicit, loss, data, "snip", 0.8, structured=False, statistics=statistics)  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(auto.parameters(), explicit.parameters(), strict=True))
        other = copy.deepcopy(model)
        prune(other, loss, data, "snip", 0.8, structured=False, statistics="running" if model is fresh else "batch")
        assert not all(torch.equal(a, b) for a, b in zip(auto.parameters(), other.parameters(), strict=True))
