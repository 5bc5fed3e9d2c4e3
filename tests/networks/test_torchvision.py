"""Classifiers and segmentation models of torchvision: traced, cut, certified, and trained a step afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import shrink, trace
from earlycrop.graph.graph import Graph
from earlycrop.utils.torchvision_compat import load_torchvision
from tests.oracles import some_nodes

models = load_torchvision("torchvision.models")
pytestmark = pytest.mark.usefixtures("without_type_checks")

QUICK = ["convnext_tiny", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "swin_t"]
LARGEST = 150e6
"""Parameters of the largest network that is built with real weights here; ``benchmarks/surgeon.py`` takes them all."""
FULL_SIZE = ("vit_", "maxvit", "swin_v2", "alexnet", "vgg")
"""Those that want images of 224 x 224, or pool to a fixed size from there."""


def made(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, weights=None, **options)
    with torch.no_grad():
        for key, t in model.state_dict().items():
            if key.endswith(("layer_scale", "running_mean", "bias")):
                t.uniform_(0.3, 1)  # so that nothing is 0, and every layer matters
    return model


def images(name: str) -> Tensor:
    size = 224 if name.startswith(FULL_SIZE) else 299 if name == "inception_v3" else 96
    return torch.randn(2, 3, size, size)


def leaves(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for t in output if t is not None]


def removable(graph: Graph) -> float:
    nodes = [n for layer in graph.layers for n in layer.nodes[~layer.returned].tolist()]
    return sum(n >= 0 for n in nodes) / len(nodes)


def frozen_share(name: str) -> float:
    """What a layer norm goes over may not be cut: a transformer's residual width. torch's own attention stays whole."""
    families = {"vit_": 0.5, "swin_v2": 0.5, "swin_": 0.45, "maxvit": 0.3, "convnext": 0.4}
    return next((share for family, share in families.items() if name.startswith(family)), 0.0)


def check(name: str, shares: list[float]) -> None:
    model, x = made(name), images(name)
    graph = trace(model, x)
    assert removable(graph) >= 1 - frozen_share(name) - 0.01
    for seed, share in enumerate(shares):
        small = copy.deepcopy(model).train()
        remove = some_nodes(graph, share, seed)
        optimizer = torch.optim.SGD(small.parameters(), 0.01)
        cut = shrink(small, graph, remove, optimizer)
        assert cut.difference is not None
        assert cut.difference <= 1e-5
        assert cut.weights_after == sum(p.numel() for p in small.parameters() if p.ndim > 1) < cut.weights_before
        assert all(m.training for m in small.modules())
    sum(t.mean() for t in leaves(small(x))).backward()  # type: ignore[union-attr]
    optimizer.step()


@pytest.mark.parametrize("name", QUICK)
def test_a_small_classifier_is_cut_and_trained_on(name: str) -> None:
    check(name, [0.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_is_cut_and_trained_on(name: str) -> None:
    if models.get_model_weights(name)["DEFAULT"].meta["num_params"] > LARGEST:
        pytest.skip("in benchmarks/surgeon.py")
    check(name, [0.1, 0.5, 0.99])


def test_the_residual_width_of_a_resnet_is_one_group_matched_by_identity() -> None:
    model, x = made("resnet18"), torch.randn(2, 3, 64, 64)
    graph = trace(model, x)
    slots = {(s.tensor, s.dim): s.nodes for s in graph.axes}
    width = slots["conv1.weight", 0]
    for name in ("layer1.0.conv2.weight", "layer1.1.conv2.weight"):
        assert slots[name, 0].tolist() == width.tolist()
    for name in (
        "layer1.0.conv1.weight",
        "layer1.1.conv1.weight",
        "layer2.0.conv1.weight",
        "layer2.0.downsample.0.weight",
    ):
        assert slots[name, 1].tolist() == width.tolist()


@pytest.mark.parametrize("name", [pytest.param("fcn_resnet50", marks=pytest.mark.slow), "lraspp_mobilenet_v3_large"])
def test_segmentation_models_are_cut(name: str) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None).eval()
    x = torch.randn(2, 3, 64, 64)
    graph = trace(model, x)
    assert removable(graph) == 1
    cut = shrink(model, graph, some_nodes(graph, 0.5, 0))
    assert cut.difference is not None
    assert cut.difference <= 1e-5


@pytest.mark.slow
def test_deeplab_and_a_detector_s_backbone_are_cut() -> None:
    torch.manual_seed(0)
    deeplab = models.get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    backbone = models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).backbone.eval()
    for model in (deeplab, backbone):
        graph = trace(model, torch.randn(2, 3, 96, 96))
        assert removable(graph) > 0.9
        assert shrink(model, graph, some_nodes(graph, 0.5, 0)).difference <= 1e-5  # type: ignore[operator]
