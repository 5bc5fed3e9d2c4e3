"""Image classifiers: their shapes, and names of which there is none."""

from __future__ import annotations

import pytest
import torch

from tasks.nets.classifiers import network, require_fit


@pytest.mark.parametrize(
    ("name", "size", "nodes", "millions"),
    [
        ("resnet18", 64, 5056, 11.70),  # as the authors count the nodes, and 398 Mbit / 34 the weights
        ("vgg16", 64, 12928, 50.69),  # 1720 Mbit / 34
        ("resnet18-cifar", 32, 4800, 11.17),
        ("resnet20-cifar", 32, 784, 0.272),  # He et al. 2016: 0.27 M
        ("vgg16-cifar", 32, 4224, 14.73),
    ],
)
def test_networks_have_the_sizes_that_are_told_of_them(name: str, size: int, nodes: int, millions: float) -> None:
    with torch.device("meta"):
        model = network(name, 10, size)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sum(m.weight.shape[0] for m in layers[:-1]) == nodes
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=3e-3)


def test_the_large_network_of_table_3_is_that() -> None:
    with torch.device("meta"):
        wide, narrow = network("resnext101_32x48d", 1000, 64), network("resnext101_32x16d", 1000, 64)
    assert round(sum(p.numel() for p in wide.parameters()) / 1e6) == 828  # the paper tells 829
    assert round(sum(p.numel() for p in narrow.parameters()) / 1e6) == 194


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("nothing", 32, "there is no network 'nothing': take one of resnet18"),
        ("vgg16", 20, "vgg16 does not take images of 20 x 20: give another --size"),
        ("googlenet", 64, "googlenet does not return logits alone when it is trained"),
        ("timm:resnet18", 32, "needs timm, which is not installed"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Initializing zero-element")
def test_networks_that_cannot_be_are_a_sentence(name: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_fit(name, 10, size)
