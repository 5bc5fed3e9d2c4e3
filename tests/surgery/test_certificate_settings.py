"""The certificate under settings of torch that change what is computed, and where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop.utils.precision import full_float32_precision
from tests.toy import Net, mlp

BACKENDS: Any = torch.backends
OPERATIONS = [
    BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn,
]  # fmt: skip
SETTINGS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "a matrix product": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "convolutions": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "cudnn": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "ieee"),
    "everything": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "older, a matrix product": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "older, cudnn": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "older, medium": lambda: torch.set_float32_matmul_precision("medium"),
}


def readings() -> list[Any]:
    """Return all settings of both interfaces, and that torch refuses to read one."""
    readers: list[Callable[[], Any]] = [
        *(lambda o=o: o.fp32_precision for o in [BACKENDS, BACKENDS.cudnn, *OPERATIONS]),
        lambda: BACKENDS.cuda.matmul.allow_tf32, lambda: BACKENDS.cudnn.allow_tf32,
        torch.get_float32_matmul_precision,
    ]  # fmt: skip
    values = []
    for read in readers:
        try:
            values.append(read())
        except RuntimeError:
            values.append("refused")
    return values


@pytest.fixture(autouse=True)
def _same_settings_again() -> Iterator[None]:
    before = readings()
    yield
    BACKENDS.fp32_precision = BACKENDS.cudnn.fp32_precision = BACKENDS.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for operation, value in zip(OPERATIONS, before[2:8], strict=True):
        operation.fp32_precision = value
    BACKENDS.cudnn.allow_tf32 = True
    assert readings() == before


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_cut_is_certified_in_full_precision_whatever_torch_is_set_to(name: str) -> None:
    SETTINGS[name]()
    before, seen = readings(), []

    def forward(m: Any, x: Tensor) -> Tensor:
        seen.append([o.fp32_precision for o in OPERATIONS])
        return m.net(x)  # type: ignore[no-any-return]

    model, x = Net(forward, net=mlp()), torch.randn(4, 6)
    cut = earlycrop.shrink(model, earlycrop.trace(model, x), [0, 1, 20])
    assert cut.difference is not None
    assert cut.difference < 1e-5
    assert seen[-1] == ["ieee"] * len(OPERATIONS)
    assert readings() == before


@pytest.mark.parametrize("benchmark", [True, False])
def test_a_cut_is_certified_without_algorithms_that_are_chosen_by_their_time(benchmark: bool) -> None:
    """They may round otherwise for the smaller network."""
    seen = []

    def forward(m: Any, x: Tensor) -> Tensor:
        seen.append(BACKENDS.cudnn.benchmark)
        return m.net(x)  # type: ignore[no-any-return]

    model, x = Net(forward, net=mlp()), torch.randn(4, 6)
    graph = earlycrop.trace(model, x)
    seen.clear()
    before = BACKENDS.cudnn.benchmark
    BACKENDS.cudnn.benchmark = benchmark
    try:
        earlycrop.shrink(model, graph, [0, 1, 20])
        assert BACKENDS.cudnn.benchmark == benchmark
    finally:
        BACKENDS.cudnn.benchmark = before
    assert len(seen) == 4
    assert not any(seen)


def test_what_is_inherited_follows_its_backend_again() -> None:
    BACKENDS.fp32_precision = "tf32"
    with full_float32_precision():
        assert BACKENDS.mkldnn.matmul.fp32_precision == "ieee"
    BACKENDS.fp32_precision = "ieee"
    assert BACKENDS.mkldnn.matmul.fp32_precision == "ieee"


class Large(nn.Module):
    """Asks for more memory than there is, under a condition on itself and on its call."""

    def __init__(self, asks: Callable[[Any], bool], error: Callable[[], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)
        self.asks, self.error = asks, error

    def forward(self, x: Tensor) -> Tensor:
        if self.asks(self):
            self.error()
        y: Tensor = self.second(self.first(x).relu())
        return y


def raise_error(error: Exception) -> None:
    raise error


ERRORS: dict[str, Callable[[], Any]] = {
    "on the CPU": lambda: torch.empty(1 << 48, dtype=torch.int8),
    "on a device": lambda: raise_error(torch.OutOfMemoryError("out of memory. Tried to allocate 2.00 GiB")),
    "in Python": lambda: raise_error(MemoryError("no memory")),
}


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize(
    "asks", [lambda m: not m.first.weight.is_meta and len(m.first.weight) < 16, lambda m: len(m.first.weight) < 16]
)
def test_running_out_of_memory_is_not_taken_for_a_failed_proof(error: str, asks: Any) -> None:
    model = Large(asks, ERRORS[error])
    with pytest.raises((RuntimeError, MemoryError), match=r"memory") as raised:
        earlycrop.prune(model, lambda m, b: m(b).square().mean(), [torch.randn(4, 6)], "magnitude", 0.5)
    assert not isinstance(raised.value, earlycrop.EarlyCropError)
    assert isinstance(
        raised.value, {"on a device": torch.OutOfMemoryError, "in Python": MemoryError}.get(error, RuntimeError)
    )
    assert len(model.first.weight) == 16


@pytest.mark.parametrize("error", list(ERRORS))
def test_running_out_of_memory_in_a_trace_comes_out_as_it_is(error: str) -> None:
    for asks in (lambda m: True, lambda m: m.training):
        model = Large(asks, ERRORS[error]).train()
        with pytest.raises((RuntimeError, MemoryError), match=r"memory") as raised:
            earlycrop.trace(model, torch.randn(4, 6))
        assert not isinstance(raised.value, earlycrop.EarlyCropError)


class FailingBackward(torch.autograd.Function):
    """The identity, whose backward asks for more memory than there is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.empty(1 << 48, dtype=torch.int8)


class FailingSecondBackward(FailingBackward):
    """The identity, whose backward can be run, and not be differentiated for lack of memory."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return FailingBackward.apply(gradient)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("function", [FailingBackward, FailingSecondBackward])
def test_running_out_of_memory_in_a_derivative_is_not_taken_for_one_that_does_not_exist(function: Any) -> None:
    model = Net(lambda m, x: m.last(function.apply(m.first(x)).relu()), first=nn.Linear(6, 8), last=nn.Linear(8, 2))
    with pytest.raises(RuntimeError, match="memory") as raised:
        earlycrop.prune(model, lambda m, b: m(b).square().mean(), [torch.randn(4, 6)], "crop", 0.3)
    assert not isinstance(raised.value, earlycrop.EarlyCropError)
    assert len(model.first.weight) == 8
