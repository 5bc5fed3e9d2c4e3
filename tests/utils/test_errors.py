"""Errors that say nothing about a network pass through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop.utils.errors import raise_if_out_of_memory
from tests.toy import mlp, vectors

FAILURES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_failures_of_the_machine_are_raised_again(error: Exception) -> None:
    with pytest.raises(type(error)):
        raise_if_out_of_memory(error)


def test_other_errors_are_not() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out")):
        raise_if_out_of_memory(error)


class _Failing(torch.autograd.Function):
    """Fails in the second backward pass as a GPU does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _FailingBackward.apply(grads[0])


class _FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_an_error_of_the_device_is_not_told_as_one_of_the_network() -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return _Failing.apply(model(batch[0])).square().mean()

    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        earlycrop.prune(mlp(), loss, vectors(), "crop", 0.5)
