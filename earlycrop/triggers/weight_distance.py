"""How far the weights have moved, epoch by epoch, and the forms in which a change of that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.utils.wrappers import check_unchanged


@dataclass
class DistanceHistory:
    """The distances of the weights w_t after epoch t from those before and after the first epoch.

    d: |w_t - w_0| for t = 0.. ; after_first: |w_t - w_1| / |w_1| for t = 1.. ; initial: |w_0|.
    """

    d: list[float] = field(default_factory=list)
    after_first: list[float] = field(default_factory=list)
    initial: float = 0.0

    @property
    def changes(self) -> list[float]:
        """c_t = |d_t - d_(t-1)| for t = 1.. ."""
        return [abs(b - a) for a, b in zip(self.d, self.d[1:], strict=False)]


def unsquared(x: DistanceHistory) -> float:
    """|d_t - d_(t-1)| / d_1. Eq. 12's bound holds for this one, so it is the default."""
    return _ratio(x.changes[-1], x.d[1])


def squared(x: DistanceHistory) -> float:
    """|d_t^2 - d_(t-1)^2| / d_1^2: Rachwan et al. 2022, eq. 10 and 11 to the letter."""
    return _ratio(abs(x.d[-1] ** 2 - x.d[-2] ** 2), x.d[1] ** 2)


def squared_current(x: DistanceHistory) -> float:
    """|d_t^2 - d_(t-1)^2| / d_t^2: the end of section 4.3."""
    return _ratio(abs(x.d[-1] ** 2 - x.d[-2] ** 2), x.d[-1] ** 2)


def algorithm1(x: DistanceHistory) -> float:
    """(d_t^2 - d_(t-1)^2) / |w_0|^2, with its sign: algorithm 1, lines 6 and 7."""
    return _ratio(x.d[-1] ** 2 - x.d[-2] ** 2, x.initial**2)


def authors(x: DistanceHistory) -> float:
    """|e_t - e_(t-1)| / e_2 with e_t = |w_t - w_1| / |w_1|: the authors' code, unstructured."""
    e = x.after_first
    return _ratio(abs(e[-1] - e[-2]), e[1]) if len(e) > 1 else inf


def _ratio(change: float, yardstick: float) -> float:
    """Weights that have not moved, or started at zero, are no yardstick: such a change is not small."""
    return change / yardstick if yardstick else inf


DEFINITIONS = {f.__name__: f for f in (unsquared, squared, squared_current, algorithm1, authors)}
"""The five forms in which the paper and its code write the change that is compared with the threshold."""


def fall(x: DistanceHistory) -> float:
    """c_t / c_(t-1): how much less the weights moved than in the epoch before."""
    return _ratio(x.changes[-1], x.changes[-2])


def level(x: DistanceHistory) -> float:
    """c_t / max over s <= t of c_s: how much less than in the epoch in which they moved most."""
    return _ratio(x.changes[-1], max(x.changes))


KNEE = {f.__name__: f for f in (fall, level)}
"""What the knee is told by."""


class WeightDistance:
    """Follows the weights of a model: all floating and complex parameters, no buffers. Keeps two copies of them.

    ``update`` is called before training and after every epoch.
    """

    def __init__(self) -> None:
        self.seen = DistanceHistory()
        self._references: list[dict[str, Tensor]] = []  # the weights before and after the first epoch

    def update(self, model: nn.Module) -> None:
        """Measure the model as it is now.

        Raises:
            ValueError: it has parameters that it had not, or of other shapes, because something else has changed it.
        """
        parameters = {name: p.detach() for name, p in model.named_parameters() if _moves(p)}
        for reference in self._references:
            check_unchanged(parameters, {name: t.shape for name, t in reference.items()})
        if len(self._references) < 2:
            self._references.append({name: p.clone() for name, p in parameters.items()})
        self.seen.d.append(_distance(parameters, self._references[0]))
        if len(self.seen.d) == 1:
            self.seen.initial = _distance(parameters)
            return
        norm = _distance(self._references[1])
        self.seen.after_first.append(_distance(parameters, self._references[1]) / norm if norm else 0.0)

    def values(self) -> dict[str, float]:
        """Every definition of the change now, and what the knee is told by; infinite where one means nothing yet."""
        if len(self.seen.d) < 3:  # epoch 1 is the yardstick
            return {}
        return {name: f(self.seen) for name, f in (DEFINITIONS | KNEE).items()}

    def log(self) -> dict[str, float]:
        """The same for a record, with the distance; finite numbers only."""
        if len(self.seen.d) < 2:
            return {}
        return {"distance": self.seen.d[-1], **{name: v for name, v in self.values().items() if v < inf}}

    def forget(self) -> None:
        """Let go of the copies: what is measured from them is over."""
        self._references = []

    def state_dict(self) -> dict[str, Any]:
        seen = {"d": list(self.seen.d), "after_first": list(self.seen.after_first), "initial": self.seen.initial}
        return {"seen": seen, "references": [dict(r) for r in self._references]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = DistanceHistory(**state["seen"])
        self._references = [dict(r) for r in state["references"]]


def _moves(p: Tensor) -> bool:
    return p.is_floating_point() or p.is_complex()


def _distance(parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> float:
    """The Euclidean norm of all parameters, less the reference's if given, summed in float64."""
    squares = 0.0
    for name, p in parameters.items():
        moved = p if reference is None else p - reference[name].to(p.device)
        if moved.is_complex():
            moved = torch.view_as_real(moved.resolve_conj())
        squares += float(torch.linalg.vector_norm(moved, dtype=torch.float64)) ** 2
    return sqrt(squares)
