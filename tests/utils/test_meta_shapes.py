"""Shortcuts for shapes on the meta device give what torch gives there, or leave the call to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from earlycrop.utils.meta_shapes import META, SHORTCUTS

aten: Any = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: meta(2, 3, 4, 6),
    "channels last": lambda: meta(2, 4, 6, 3).permute(0, 3, 1, 2),
    "transposed": lambda: meta(2, 3, 6, 4).transpose(2, 3),
    "permuted": lambda: meta(4, 2, 6, 3).permute(1, 3, 0, 2),
    "a part": lambda: meta(2, 5, 4, 6)[:, 1:4],
    "every second": lambda: meta(2, 3, 4, 12)[..., ::2],
    "a part of a transposed one": lambda: meta(2, 3, 9, 4).transpose(2, 3)[..., 3:],
    "expanded": lambda: meta(2, 1, 4, 6).expand(2, 3, 4, 6),
    "double precision": lambda: meta(2, 3, 4, 6, dtype=torch.float64),
    "one channel": lambda: meta(2, 1, 4, 6),
    "one position": lambda: meta(2, 3, 1, 1),
}
UNARY = "gelu sigmoid silu tanh relu hardswish hardsigmoid hardtanh leaky_relu elu softplus mish rsqrt exp log neg cos"
CALLS: dict[str, tuple[Any, Callable[[Tensor], tuple[Any, ...]]]] = {
    **{name: (getattr(aten, name).default, lambda x: (x,)) for name in UNARY.split()},
    "clamp": (aten.clamp.default, lambda x: (x, 0.0, 6.0)),
    "leaky_relu_": (aten.leaky_relu_.default, lambda x: (x, 0.1)),
    "times a number": (aten.mul.Scalar, lambda x: (x, 0.5)),
    "divided by a whole number": (aten.div.Scalar, lambda x: (x, 2)),
    "power": (aten.pow.Tensor_Scalar, lambda x: (x, 2)),
    "sum of two": (aten.add.Tensor, lambda x: (x, x)),
    "times a vector": (aten.mul.Tensor, lambda x: (x, meta(6, dtype=x.dtype))),
    "compared with a number": (aten.gt.Scalar, lambda x: (x, 0)),
    "compared": (aten.eq.Tensor, lambda x: (x, x)),
    "softmax": (aten._softmax.default, lambda x: (x, -1, False)),
    "log softmax": (aten._log_softmax.default, lambda x: (x, 1, False)),
    "safe softmax": (aten._safe_softmax.default, lambda x: (x, -1)),
    "joined": (aten.cat.default, lambda x: ([x, x, x], 1)),
    "joined by the last dimension": (aten.cat.default, lambda x: ([x, x], -1)),
    "stacked": (aten.stack.default, lambda x: ([x, x], -1)),
    "stacked in front": (aten.stack.default, lambda x: ([x, x],)),
    "a row": (aten.index.Tensor, lambda x: (x, [meta(5, 2, dtype=torch.long)])),
    "a column": (aten.index.Tensor, lambda x: (x, [None, None, meta(7, dtype=torch.long)])),
    "where": (aten.where.self, lambda x: (meta(4, 6, dtype=torch.bool), x, meta(1, dtype=x.dtype))),
    "masked": (aten.masked_fill.Scalar, lambda x: (x, meta(4, 6, dtype=torch.bool), 0.0)),
    "triangle": (aten.tril.default, lambda x: (x,)),
    "triangle above": (aten.triu.default, lambda x: (x, 1)),
    "mean": (aten.mean.dim, lambda x: (x, [2, 3], True)),
    "convolution": (
        aten.convolution.default,
        lambda x: (x, meta(8, x.shape[1], 1, 1, dtype=x.dtype), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ),
}


def layout(x: Tensor) -> tuple[Any, ...]:
    """Return what an operation may depend on: strides of dimensions that are 1 wide mean nothing."""
    return x.shape, [stride for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1], x.dtype


@pytest.mark.parametrize("call", CALLS)
def test_a_shortcut_gives_what_torch_gives(call: str) -> None:
    operation, arguments = CALLS[call]
    taken = []
    for name, make in LAYOUTS.items():
        result = SHORTCUTS[operation](*arguments(make()))
        if result is not None:
            taken.append(name)
            assert layout(result) == layout(operation(*arguments(make()))), name
    assert {"contiguous", "double precision"} <= set(taken)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (aten.mul.Scalar, (meta(2, 3), 1j)),
        (aten.mul.Scalar, (meta(2, 3, dtype=torch.int64), 0.5)),
        (aten.masked_fill.Scalar, (meta(2, 3), meta(2, 4, dtype=torch.bool), 0.0)),
        (aten.where.self, (meta(2, 3, dtype=torch.bool), meta(2, 3), meta(2, 3, dtype=torch.float64))),
        (aten.where.self, (meta(2, 1, dtype=torch.bool), meta(1, 3), meta(2, 3))),
        (aten.cat.default, ([meta(2, 3), meta(3, 3)], 1)),
        (aten.stack.default, ([meta(2, 3), meta(3, 3)],)),
        (aten.index.Tensor, (meta(2, 3), [meta(2, dtype=torch.bool)])),
        (aten.index.Tensor, (meta(2, 3), [meta(2, dtype=torch.long), meta(2, dtype=torch.long)])),
        (aten._softmax.default, (meta(2, 3, dtype=torch.float16), -1, True)),
    ],
)
def test_other_calls_are_left_to_torch(operation: Any, arguments: tuple[Any, ...]) -> None:
    result = SHORTCUTS[operation](*arguments)
    assert result is None or layout(result) == layout(operation(*arguments))
