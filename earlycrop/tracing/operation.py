"""One ATen operation that has run, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from earlycrop.tracing.recorder import ChannelRecorder


class Op(NamedTuple):
    """What an operation was called with, and what it returned.

    inputs: the tensors among the arguments, those in lists included. results: the tensors that it returned.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: list[Tensor]
    results: list[Tensor]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that may be given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


Rule: TypeAlias = Callable[[ChannelRecorder, Op], None]
"""What an operation means for the channels of its tensors; it is called after the operation ran."""
