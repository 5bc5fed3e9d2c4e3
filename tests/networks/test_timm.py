"""Networks of timm whose channels are split into parts of different sizes, and some of each other kind."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.architectures import build, draw_nodes, removable_shares
from earlycrop import shrink, trace
from earlycrop.utils.torchvision_compat import load_torchvision

load_torchvision()  # timm imports it where it is installed
pytest.importorskip("timm")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_type_checks")]

OUTPUTS = {
    "mixnet_s": 1.0,
    "dpn48b": 1.0,
    "shvit_s1": 0.95,
    "inception_next_atto": 0.9,
    "focalnet_tiny_srf": 0.75,
    "mambaout_femto": 0.65,
    "resnext26ts": 1.0,
    "efficientnet_b0": 1.0,
    "vit_tiny_patch16_224": 0.5,
}
"""The share of the layers' outputs that can go at least. What a layer norm goes over stays."""


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_a_network_is_cut_and_trained_on(name: str) -> None:
    model, x = build("timm", name)
    graph = trace(model, x)
    assert removable_shares(graph)[1] >= OUTPUTS[name]
    for share in (0.1, 0.5, 0.9):
        small = copy.deepcopy(model)
        cut = shrink(small, graph, draw_nodes(graph, share))
        assert cut.difference is not None
        assert cut.difference <= 1e-5
        small.train()(torch.randn_like(x)).mean().backward()
