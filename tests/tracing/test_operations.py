"""Operations between two layers: which leave the channels of the first one removable, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import trace
from tests.oracles import certified
from tests.toy import Net
from tests.tracing.operations import SHAPES, WIDTH, Functions, Modules, elementwise, mixing, movements, spatial

pytestmark = pytest.mark.usefixtures("without_type_checks")

FUNCTIONS: dict[str, Functions] = {
    "rows": elementwise.FUNCTIONS,
    "conv1d": spatial.CONV1D,
    "conv2d": {**spatial.CONV2D, **movements.CONV2D},
    "conv3d": spatial.CONV3D,
}
MODULES: dict[str, Modules] = {"rows": elementwise.MODULES, **spatial.MODULES}
OPERATIONS = [(kind, name) for table in (FUNCTIONS, MODULES) for kind, names in table.items() for name in names]
COUPLED = {"GLU": 4, "ChannelShuffle": 4, "chunk of channels": 4, "pixel_shuffle and mean": 2}
"""How many groups of channels can be removed where an operation couples some of them."""
LAYERS: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def layer(ndim: int, inputs: int, outputs: int) -> nn.Module:
    """A layer for tensors of so many dimensions; a convolution looks at one position."""
    return LAYERS[ndim](inputs, outputs, 1) if ndim in LAYERS else nn.Linear(inputs, outputs)


def between(kind: str, operation: Callable[[Tensor], Tensor]) -> tuple[Net, Tensor]:
    """A network with an operation between two layers, in float64, and its example."""
    torch.manual_seed(0)
    shape = torch.Size(SHAPES[kind])
    x = torch.randn(shape[0], 3, *shape[2:], dtype=torch.float64)
    after = operation(torch.rand(shape, dtype=torch.float64))

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last((self.middle if isinstance(operation, nn.Module) else operation)(self.first(x)))  # type: ignore[no-any-return]

    layers = {"first": layer(x.ndim, 3, WIDTH), "last": layer(after.ndim, after.shape[1], 2)}
    modules = {"middle": operation} if isinstance(operation, nn.Module) else {}
    return Net(forward, **layers, **modules).double(), x


@pytest.mark.parametrize(("kind", "name"), OPERATIONS, ids=["-".join(key) for key in OPERATIONS])
def test_channels_are_removable(kind: str, name: str) -> None:
    is_module = name in MODULES[kind]
    model, x = between(kind, MODULES[kind][name]().double().eval() if is_module else FUNCTIONS[kind][name])
    certified(model, x, COUPLED.get(name, WIDTH))


@pytest.mark.parametrize("name", list(mixing.ROWS))
def test_mixed_channels_stay(name: str) -> None:
    operation, why = mixing.ROWS[name]
    model, x = between("rows", operation)
    axis = trace(model, x).axis["first.weight", 0]
    assert (axis.nodes < 0).all()
    assert why in axis.reasons[0].why


def test_no_operation_is_lost_from_the_tables() -> None:
    assert len(OPERATIONS) >= 399
    assert len(mixing.ROWS) <= 40
