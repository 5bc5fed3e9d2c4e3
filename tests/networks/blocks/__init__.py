"""The words of the grammar of networks: what a state is, and a table of blocks for each kind of state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class State:
    """What flows between blocks: a vector (N, C), a sequence (N, T, C), an image (N, C, one to three sizes), or tokens
    (N, T) of ``width`` sorts.
    """

    kind: str
    width: int
    sizes: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        """The dimension of the channels."""
        return 2 if self.kind == "sequence" else 1

    @property
    def along(self) -> tuple[int, ...]:
        """The shape of a parameter with an entry a channel."""
        return (self.width, *(1 for _ in self.sizes)) if self.kind == "image" else (self.width,)

    def example(self, n: int) -> Tensor:
        if self.kind == "tokens":
            return torch.randint(0, self.width, (n, *self.sizes))
        shape = (*self.sizes, self.width) if self.kind == "sequence" else (self.width, *self.sizes)
        return torch.randn(n, *shape, dtype=torch.float64)


Options: TypeAlias = tuple[Any, ...]
Description: TypeAlias = tuple[Any, ...]
"""A block's name, then its options."""
Pick: TypeAlias = Callable[[Sequence[Any]], Any]
"""Chooses one of several."""
Made: TypeAlias = tuple[nn.Module, State]


@dataclass(frozen=True)
class Word:
    """A block: the kinds of states that it takes, what makes it from a state and its options, and what draws those.

    ``options`` gives None where the state does not suit. ``context``: its forward also takes the second input.
    """

    kinds: str
    make: Callable[..., Made]
    options: Callable[[Pick, State], Options | None] = lambda pick, s: ()
    context: bool = False


class Block(nn.Module):
    """A forward given as a function of the block and what comes in, with its modules, parameters and constants."""

    def __init__(self, function: Callable[..., Any], context: bool = False, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function, self.context = function, context
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


WIDTHS = (4, 6, 8, 12, 5, 7, 9, 16)
BOTH = (True, False)
ALL = "vector image sequence"


def raw(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def divisors(n: int, smallest: int = 2) -> list[int]:
    return [d for d in range(smallest, n + 1) if n % d == 0]


def divided(pick: Pick, s: State) -> Options | None:
    """A divisor of the width, other than 1 and the width."""
    candidates = divisors(s.width)[:-1]
    return (pick(candidates),) if candidates else None
