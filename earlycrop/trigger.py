"""When to prune: before training, at a fixed epoch, in the lazy regime, or never.

A trigger is asked after every epoch (and once before the first) and answers with the reason to prune now, or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf, sqrt
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Trigger(Protocol):
    """Decides when a method prunes."""

    def update(self, model: nn.Module, epoch: int) -> str | None:
        """Look at the model after ``epoch`` epochs (0: before the first); why to prune now, or None."""

    def log(self) -> dict[str, float]:
        """What it measured at the last update."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: tensors, numbers, strings, and dicts and lists of them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``."""


@dataclass
class AtEpoch:
    """Prune after a given number of epochs: 0 is before training, None never."""

    epoch: int | None

    def update(self, model: nn.Module, epoch: int) -> str | None:
        if epoch != self.epoch:
            return None
        return "before training" if epoch == 0 else f"after epoch {epoch}, as set"

    def log(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state  # it has none


@dataclass
class Distances:
    """The distances of the weights w_t after epoch t from those before and after the first epoch.

    d: |w_t - w_0| for t = 0.. ; after_first: |w_t - w_1| / |w_1| for t = 1.. ; initial: |w_0|.
    """

    d: list[float] = field(default_factory=list)
    after_first: list[float] = field(default_factory=list)
    initial: float = 0.0


def unsquared(x: Distances) -> float:
    """|d_t - d_(t-1)| / d_1. Eq. 12's bound holds for this one, so it is the default."""
    return _ratio(abs(x.d[-1] - x.d[-2]), x.d[1])


def squared(x: Distances) -> float:
    """|d_t^2 - d_(t-1)^2| / d_1^2: Rachwan et al. 2022, eq. 10 and 11 to the letter."""
    return _ratio(abs(x.d[-1] ** 2 - x.d[-2] ** 2), x.d[1] ** 2)


def squared_current(x: Distances) -> float:
    """|d_t^2 - d_(t-1)^2| / d_t^2: the end of section 4.3."""
    return _ratio(abs(x.d[-1] ** 2 - x.d[-2] ** 2), x.d[-1] ** 2)


def algorithm1(x: Distances) -> float:
    """(d_t^2 - d_(t-1)^2) / |w_0|^2, with its sign: algorithm 1, lines 6 and 7."""
    return _ratio(x.d[-1] ** 2 - x.d[-2] ** 2, x.initial**2)


def authors(x: Distances) -> float:
    """|e_t - e_(t-1)| / e_2 with e_t = |w_t - w_1| / |w_1|: the authors' code, unstructured."""
    e = x.after_first
    return _ratio(abs(e[-1] - e[-2]), e[1]) if len(e) > 1 else inf


def _ratio(change: float, yardstick: float) -> float:
    """Weights that have not moved, or started at zero, are no yardstick: such a change is not small."""
    return change / yardstick if yardstick else inf


DEFINITIONS = {f.__name__: f for f in (unsquared, squared, squared_current, algorithm1, authors)}
"""The five forms in which the paper and its code write the change that is compared with the threshold."""


class LazyRegime:
    """Prune when the weights stop moving away from where they started: at the first epoch t >= ``earliest`` at which
    the chosen definition of the change is at most ``threshold``, and at epoch ``latest`` in any case.

    Source: Rachwan et al. 2022, section 4.3, with th = 1 - rho. All definitions are logged every epoch. All parameters
    count, buffers do not. ``earliest`` is at least 2: epoch 1 is the yardstick.

    Raises:
        ValueError: the definition is unknown, or ``latest`` comes before ``earliest``.
    """

    def __init__(self, threshold: float, latest: int, earliest: int = 2, definition: str = "unsquared") -> None:
        if definition not in DEFINITIONS:
            raise ValueError(
                f"there is no definition '{definition}' of the lazy regime: take one of {', '.join(DEFINITIONS)}"
            )
        if latest < max(earliest, 2):
            raise ValueError(
                f"the latest epoch to prune, {latest}, comes before the earliest, {max(earliest, 2)}: raise it"
            )
        self.threshold, self.latest, self.earliest, self.definition = threshold, latest, max(earliest, 2), definition
        self._seen = Distances()
        self._references: list[dict[str, Tensor]] = []  # the weights before and after the first epoch
        self._log: dict[str, float] = {}

    def update(self, model: nn.Module, epoch: int) -> str | None:
        parameters = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
        if len(self._references) < 2:
            self._references.append({name: p.clone() for name, p in parameters.items()})
        self._seen.d.append(_distance(parameters, self._references[0]))
        if epoch == 0:
            self._seen.initial = _distance(parameters)
            return None
        norm = _distance(self._references[1])
        self._seen.after_first.append(_distance(parameters, self._references[1]) / norm if norm else 0.0)
        values = {name: change(self._seen) for name, change in DEFINITIONS.items()}
        self._log = {
            "distance": self._seen.d[-1],
            **{n: v for n, v in values.items() if epoch > 1 and v < inf},
        }
        if epoch >= self.earliest and values[self.definition] <= self.threshold:
            change = f"{values[self.definition]:.3g}"
            return f"lazy regime: {self.definition} change {change}, at most {self.threshold:.3g}"
        if epoch >= self.latest:
            return f"latest epoch {self.latest}: the {self.definition} change stayed above {self.threshold:.3g}"
        return None

    def log(self) -> dict[str, float]:
        return dict(self._log)

    def state_dict(self) -> dict[str, Any]:
        seen = {"d": list(self._seen.d), "after_first": list(self._seen.after_first), "initial": self._seen.initial}
        return {"seen": seen, "references": [dict(r) for r in self._references]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = Distances(**state["seen"])
        self._references = [dict(r) for r in state["references"]]


def lazy_regime(sparsity: float, epochs: int) -> LazyRegime:
    """The default: th = 1 - rho, not before 1/20 and not after 1/4 of the epochs (and never before epoch 2).

    Raises:
        ValueError: there are too few epochs to prune early in them.
    """
    if epochs < 3:
        raise ValueError(f"early pruning needs at least 3 epochs, 2 before it and 1 after, and there are {epochs}")
    return LazyRegime(1 - sparsity, latest=max(2, ceil(epochs / 4)), earliest=max(2, ceil(epochs / 20)))


def _distance(parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> float:
    """The Euclidean norm of all parameters, less the reference's if given, summed in float64."""
    squares = 0.0
    for name, p in parameters.items():
        moved = p if reference is None else p - reference[name].to(p.device)
        squares += float(torch.linalg.vector_norm(moved, dtype=torch.float64)) ** 2
    return sqrt(squares)
