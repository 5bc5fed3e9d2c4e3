"""The fully convolutional residual network: its up-convolution, its sizes, and what the tracer cuts."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import functional

import earlycrop
from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.nets.fcrn import FCRN, UpConvolution, UpProjection


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(8, 4, (3, 5)), (3, 6, (8, 1)), (5, 2, (7, 10))])
def test_the_up_convolution_is_an_unpooling_and_a_convolution(inputs: int, outputs: int, size: tuple[int, int]) -> None:
    module, x = UpConvolution(inputs, outputs), torch.randn(2, inputs, *size)
    unpooled = torch.zeros(2, inputs, 2 * size[0], 2 * size[1])
    unpooled[:, :, ::2, ::2] = x
    plain = functional.conv2d(unpooled, module.weight, padding=2)
    torch.testing.assert_close(module(x), plain, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), module.weight)[0] for y in (module(x), plain)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    interleaved = torch.empty_like(plain)
    around = functional.pad(x, (1, 1, 1, 1))
    for i, j in product((0, 1), (0, 1)):  # the four convolutions of Laina et al., figure 3
        interleaved[:, :, i::2, j::2] = functional.conv2d(around[:, :, i:, j:], module.weight[:, :, i::2, j::2])
    torch.testing.assert_close(module(x), interleaved, rtol=1e-5, atol=1e-5)


def test_the_depths_have_half_of_the_images_resolution() -> None:
    assert FCRN("resnet18").eval()(torch.randn(2, 3, 57, 76)).shape == (2, 32, 48)


def test_the_network_of_the_paper_has_its_sizes() -> None:
    with torch.device("meta"):
        model = FCRN()
        assert model(torch.empty(2, 3, 228, 304)).shape == (2, 128, 160)
    assert model.reduction.weight.shape == (1024, 2048, 1, 1)
    blocks = [block for block in model.decoder if isinstance(block, UpProjection)]
    assert [block.up.weight.shape[:2] for block in blocks] == [(512, 1024), (256, 512), (128, 256), (64, 128)]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(63.6, abs=0.1)  # theirs: 63.6 M


def test_the_tracer_cuts_it_whole() -> None:
    model, x = FCRN("resnet18"), torch.randn(1, 3, 64, 96)
    graph = earlycrop.trace(model, x)
    left = {name: p.shape[0] for name, p in model.named_parameters() if p.ndim == 4 and name != "prediction.weight"}
    names = ("conv1", "conv2", "downsample", "reduction", "up", "conv", "shortcut")
    assert all(any(part in name for part in names) for name in left)
    before = dict(left)
    half = [node for i, node in enumerate(range(graph.count)) if i % 2]
    cut = earlycrop.shrink(model, graph, half)
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    after = {name: model.get_parameter(name).shape[0] for name in before}
    assert all(after[name] == before[name] // 2 for name in before), after
    assert all(p.shape[1] < 64 or name == "encoder.conv1.weight" for name, p in model.named_parameters()
               if p.ndim == 4 and "decoder.3" in name)  # fmt: skip
    assert model.prediction.weight.shape == (1, 8, 3, 3)
    assert "cannot be removed" not in graph.report()


def test_an_encoder_that_cannot_be_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there is no encoder 'vgg16': take one of resnet18, "):
        FCRN("vgg16")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error no route>")

    monkeypatch.setattr(load_torchvision("torchvision.models")._api.WeightsEnum, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match=r"resnet18's pretrained weights are neither .* \(<urlopen error no route>\)"):
        FCRN("resnet18", pretrained=True)


def test_pretrained_weights_are_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resnet = load_torchvision("torchvision.models").resnet18()
    monkeypatch.setattr(
        load_torchvision("torchvision.models")._api.WeightsEnum, "get_state_dict", lambda *_, **__: resnet.state_dict()
    )
    torch.testing.assert_close(
        FCRN("resnet18", pretrained=True).encoder.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight
    )
