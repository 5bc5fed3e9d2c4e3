"""Rules for products: bilinear layers, and weights that are contracted over several of their dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import shrink, trace
from tests.oracles import certified
from tests.toy import drop_unused
from tests.tracing.layers import net, rows


def bilinear(self: Any, x: Tensor) -> Tensor:
    return self.b(self.pair(self.a(x).relu(), self.c(x).tanh()).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_bilinear_layer_loses_inputs_and_outputs(batch: tuple[int, ...]) -> None:
    model = net(bilinear, a=nn.Linear(5, 7), pair=nn.Bilinear(7, 8, 6), b=nn.Linear(6, 3))
    x = rows().view(*batch, 6, 5)
    macs = 6 * (5 * 7 + 5 * 8 + 7 * 8 * 6 + 6 * 3)
    assert trace(model, x).cost("macs") == macs
    certified(model, x, 7 + 8 + 6)
    twice = net(lambda self, x: self.b(self.pair(self.a(x), self.a(x))), pair=nn.Bilinear(8, 8, 6), b=nn.Linear(6, 3))
    certified(twice, rows(), 8 + 6)
    with_data = net(lambda self, x: self.b(self.pair(self.a(x), x)), pair=nn.Bilinear(8, 5, 6), b=nn.Linear(6, 3))
    certified(with_data, rows(), 8 + 6)


EQUATIONS = {"big,oig->bo": (12, 8, 3), "big,iog->bo": (8, 12, 3), "big,gio->bo": (3, 8, 12), "big,goi->bo": (3, 12, 8)}


@pytest.mark.parametrize("equation", list(EQUATIONS))
def test_a_weight_that_is_contracted_over_two_dimensions_loses_inputs_and_outputs(equation: str) -> None:
    """A function for each input and output, as a sum over a basis of three."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.einsum(equation, torch.stack([y, y.sin(), y.relu()], -1), self.weight).relu())  # type: ignore[no-any-return]

    model = net(forward, b=nn.Linear(12, 3))
    model.weight = nn.Parameter(torch.randn(EQUATIONS[equation], dtype=torch.float64))
    graph = trace(drop_unused(model, rows()), rows())
    assert graph.count == 8 + 12
    removed = [0, 5, 10, 11]  # inputs and outputs of the weight
    macs = graph.cost("macs", graph.mask(removed))
    assert shrink(model, graph, removed).difference <= 1e-10  # type: ignore[operator]
    assert trace(model, rows()).cost("macs") == macs


def test_a_convolution_as_a_product_of_patches_loses_channels() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        patches = functional.unfold(self.a(x).relu(), 3, padding=1)
        return self.b((self.weight.flatten(1) @ patches).unflatten(-1, (6, 6)).relu())  # type: ignore[no-any-return]

    model = net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(7, 2, 1))
    model.weight = nn.Parameter(torch.randn(7, 8, 3, 3, dtype=torch.float64))
    graph = certified(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), 8 + 7)
    assert "it is multiplied with data of a fixed width" in str(graph.axis["weight", 2].reasons)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("centres", [5, 30])  # torch takes products where there are more than 25
def test_the_width_of_distances_is_cut_where_a_masked_channel_is_zero(p: float, centres: int) -> None:
    def model(activation: Any) -> nn.Module:
        network = net(lambda self, x: self.b(torch.cdist(activation(self.a(x)), self.centres, p)))
        network.b = nn.Linear(centres, 3).double()
        network.centres = nn.Parameter(torch.randn(centres, 8, dtype=torch.float64))
        return drop_unused(network, rows())

    graph = certified(model(torch.relu), rows(), 8)
    assert {owned[:2] for owned in graph.nodes[0].owns} == {("a.weight", 0), ("a.bias", 0), ("centres", 1)}
    graph = trace(model(torch.sigmoid), rows())
    assert graph.count == 0
    assert "is not zero where the channel is masked" in graph.report()


def test_the_width_of_distances_between_activations_is_cut() -> None:
    model = net(lambda self, x: self.b(torch.cdist(self.a(x)[None], self.c(x)[None])[0]), b=nn.Linear(6, 3))
    certified(model, rows(), 8)


class Splines(nn.Module):
    """A layer of a Kolmogorov-Arnold network: a sum of splines of each input for each output (arXiv:2404.19756)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("knots", torch.linspace(-2, 2, 9).expand(inputs, -1).contiguous())
        self.base = nn.Parameter(torch.randn(outputs, inputs))
        self.weight, self.scale = (
            nn.Parameter(torch.randn(outputs, inputs, 7)),
            nn.Parameter(torch.randn(outputs, inputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        knots, values = self.knots, x[..., None]
        basis = ((values >= knots[:, :-1]) & (values < knots[:, 1:])).to(x.dtype)
        rising = (values - knots[:, :-2]) / (knots[:, 1:-1] - knots[:, :-2])
        falling = (knots[:, 2:] - values) / (knots[:, 2:] - knots[:, 1:-1])
        basis = rising * basis[..., :-1] + falling * basis[..., 1:]
        weight = (self.weight * self.scale[..., None]).view(self.outputs, -1)
        return functional.linear(functional.silu(x), self.base) + functional.linear(basis.view(len(x), -1), weight)


def test_a_network_of_splines_loses_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Splines(5, 8), Splines(8, 7), Splines(7, 3)).double()
    certified(model, rows(), 8 + 7)
    assert [layer.outputs for layer in model] == [len(layer.base) for layer in model]


NORMS: dict[str, Any] = {
    "cudnn_batch_norm": lambda x, *tensors: torch.ops.aten.cudnn_batch_norm(x, *tensors, False, 0.1, 1e-5),
    "miopen_batch_norm": lambda x, *tensors: torch.ops.aten.miopen_batch_norm(x, *tensors, False, 0.1, 1e-5),
    "_batch_norm_with_update": lambda x, *tensors: torch.ops.aten._batch_norm_with_update(x, *tensors, 0.1, 1e-5),
    "_batch_norm_no_update": lambda x, *tensors: torch.ops.aten._batch_norm_no_update(x, *tensors, 0.1, 1e-5),
}
"""The batch norms of other devices and of exported programs, of which the shapes alone are known on a CPU."""


@pytest.mark.parametrize("name", list(NORMS))
def test_channels_that_a_norm_of_a_gpu_has_made_are_multiplied(name: str) -> None:
    """They are summed over, so that a channel can go only if the norm of its zeros is zero."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k = (
            NORMS[name](layer(x), norm.weight, norm.bias, norm.running_mean, norm.running_var)[0]
            for layer, norm in ((self.a, self.norm), (self.c, self.other))
        )
        return self.b(q @ k.mT)  # type: ignore[no-any-return]

    model = net(forward, b=nn.Linear(6, 3), norm=nn.BatchNorm1d(8), other=nn.BatchNorm1d(8))
    assert trace(model, rows()).count == 8
