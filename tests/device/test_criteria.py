"""Scores on the device are those of the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

import earlycrop
from earlycrop import CRITERIA
from earlycrop.scoring.scores import node_scores, weight_scores
from tests.device.networks import NETWORKS, moved
from tests.networks import build
from tests.toy import loss, mean_square

pytestmark = pytest.mark.usefixtures("without_type_checks")
DRAWN = {"random"}
"""Criteria without scores of their own."""


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name not in DRAWN])
def test_scores_are_those_of_the_cpu(criterion: str, network: str, device: torch.device) -> None:
    make, data = NETWORKS[network]
    model, batches = make().double(), [(x.double(), y) for x, y in data()]
    device_model, moved_batches = copy.deepcopy(model).to(device), moved(batches, device)
    graph = earlycrop.trace(model, batches[0][0])

    cpu_scores = node_scores(model, graph, CRITERIA[criterion], loss, batches)
    assert_close(
        node_scores(device_model, graph, CRITERIA[criterion], loss, moved_batches), cpu_scores, rtol=1e-6, atol=1e-12
    )
    weights = weight_scores(device_model, CRITERIA[criterion], loss, moved_batches)
    assert {t.device.type for t in weights.values()} == {device.type}
    expected = weight_scores(model, CRITERIA[criterion], loss, batches)
    assert_close(moved(weights, "cpu"), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("criterion", ["crop", "crop-gate", "synflow"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "conv-norm", "groups", "tied", "residual"])
def test_scores_of_other_layers(kind: str, criterion: str, device: torch.device) -> None:
    model, x = build(kind)
    device_model = copy.deepcopy(model).to(device)
    graph = earlycrop.trace(model, x)
    cpu_scores = node_scores(model, graph, CRITERIA[criterion], mean_square, [x])
    got = node_scores(device_model, graph, CRITERIA[criterion], mean_square, [moved(x, device)])
    assert_close(got, cpu_scores, rtol=1e-4, atol=1e-7)
