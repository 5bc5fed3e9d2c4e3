"""A temperature on the logits of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LOSSES_OF_LOGITS: tuple[Callable[..., Any], ...] = (
    functional.cross_entropy,
    functional.log_softmax,
    torch.log_softmax,
    torch.Tensor.log_softmax,
    functional.binary_cross_entropy_with_logits,
)
"""Functions whose first argument is logits. Attention takes a softmax, which is none of them."""


class TemperedLogits(TorchFunctionMode):
    """Divide all logits by a temperature: the inputs of cross-entropies and of log-softmaxes.

    A loss without any, such as a regression's, is computed as it is.

    Source: Wang et al. 2020, whose code divides a classifier's outputs by 200.

    Args:
        temperature: What logits are divided by.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES_OF_LOGITS:
            if args:
                args = (args[0] / self.temperature, *args[1:])
            else:
                kwargs = {**kwargs, "input": kwargs["input"] / self.temperature}
        return func(*args, **kwargs)
