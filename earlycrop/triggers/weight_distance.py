"""How far the weights have moved from where they started (section 4.3, eq. 10), and the forms of its change (eq. 11).

The lazy regime is entered when the change of this distance from one epoch to the next becomes small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf, sqrt
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from earlycrop.utils.wrappers import check_unchanged

Definition = Literal["per_rate", "unsquared", "squared", "squared_current", "algorithm1", "authors"]
DEFINITIONS: tuple[str, ...] = get_args(Definition)
"""The forms in which the paper and its code write the change of the distance; see ``WeightDistance.values``."""


@dataclass
class DistanceHistory:
    """The distances of the weights w_t after epoch t from the weights before and after the first epoch.

    Source: Rachwan et al. 2022, eq. 10. Deviation: it is squared there.

    Args:
        from_start: d_t = |w_t - w_0| for t = 0, 1, ...
        from_first: e_t = |w_t - w_1| / |w_1| for t = 1, 2, ...
        initial_norm: |w_0|.
    """

    from_start: list[float] = field(default_factory=list)
    from_first: list[float] = field(default_factory=list)
    initial_norm: float = 0.0
    rates: list[float] = field(default_factory=list)
    """r_t, the sum of the learning rates of the steps of epoch t, for t = 1, 2, ..."""

    @property
    def changes(self) -> list[float]:
        """c_t = |d_t - d_(t-1)| for t = 1, 2, ..."""
        return [abs(b - a) for a, b in zip(self.from_start, self.from_start[1:], strict=False)]

    @property
    def speeds(self) -> list[float]:
        """c_t / r_t, the change by the learning rate, for t = 1, 2, ... Rates that are not known count as equal."""
        changes = self.changes
        return [change / rate for change, rate in zip(changes, self.rates or [1.0] * len(changes), strict=True)]


def _ratio(change: float, reference: float) -> float:
    """Return the ratio, or infinity if the reference is zero: the weights have not moved, or started at zero."""
    return change / reference if reference else inf


class WeightDistance:
    """Follows the weights of a model in training: all floating-point and complex parameters, and no buffers.

    ``update`` is called before training and after every epoch. The weights before and after the first epoch are copied.
    """

    def __init__(self) -> None:
        self.history = DistanceHistory()
        self._references: list[dict[str, Tensor]] = []
        """The weights before and after the first epoch."""

    def update(self, model: nn.Module, rate: float | None = None) -> None:
        """Measure the distances of the model as it is now.

        Args:
            model: The model.
            rate: The sum of the learning rates of the steps since the last update. None if it is unknown: then that of
                the epoch before is taken, or 1.

        Raises:
            ValueError: The model has other parameters than before, or parameters of other shapes.
        """
        parameters = {n: p.detach() for n, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
        for reference in self._references:
            check_unchanged(parameters, {name: t.shape for name, t in reference.items()})
        if len(self._references) < 2:
            self._references.append({name: p.clone() for name, p in parameters.items()})
        history = self.history
        history.from_start.append(_distance(parameters, self._references[0]))
        if len(history.from_start) == 1:
            history.initial_norm = _distance(parameters)
            return
        history.rates.append(rate or (history.rates or [1.0])[-1])
        norm = _distance(self._references[1])
        history.from_first.append(_distance(parameters, self._references[1]) / norm if norm else 0.0)

    def values(self) -> dict[str, float]:
        """Return the change in every form in which the paper and its code write it, and the ratios of the knee.

        "unsquared" is |d_t - d_(t-1)| / d_1: Rachwan et al. 2022, eq. 11, without the squares of eq. 10. Only so, the
        upper bound of eq. 12 holds. "per_rate" is the same by the learning rate, (c_t / r_t) / (c_1 / r_1). With a
        constant rate, which the authors train with up to the cut, both are one; with any other, the change itself
        follows the rate more than the network. It is the default, and this library's. "squared" is eq. 10 and 11 as
        they are written, "squared_current" the formula in the text of section 4.3, after eq. 12, and "algorithm1" that
        of algorithm 1, lines 6 and 7, with its sign. "authors" is the authors' code, unstructured pruning.

        With v_t = c_t / r_t the change by the learning rate in epoch t, "fall" is v_t / v_(t-1), and "level" is v_t /
        max of v_s over s <= t.

        Returns:
            The values by name, infinite if the reference is zero. Empty before epoch 2: the first change is the
            reference.
        """
        d, e, changes = self.history.from_start, self.history.from_first, self.history.changes
        if len(d) < 3:
            return {}
        squared, speeds = d[-1] ** 2 - d[-2] ** 2, self.history.speeds
        return {
            "per_rate": _ratio(speeds[-1], speeds[0]),
            "unsquared": _ratio(changes[-1], d[1]),
            "squared": _ratio(abs(squared), d[1] ** 2),
            "squared_current": _ratio(abs(squared), d[-1] ** 2),
            "algorithm1": _ratio(squared, self.history.initial_norm**2),
            "authors": _ratio(abs(e[-1] - e[-2]), e[1]),
            "fall": _ratio(speeds[-1], speeds[-2]),
            "level": _ratio(speeds[-1], max(speeds)),
        }

    def log(self) -> dict[str, float]:
        """Return the distance from the start and the finite ones of ``values``, to be logged.

        Returns:
            The numbers by name. Empty before epoch 1.
        """
        if len(self.history.from_start) < 2:
            return {}
        finite = {name: value for name, value in self.values().items() if value < inf}
        return {"distance": self.history.from_start[-1], **finite}

    def forget(self) -> None:
        """Free the copies of the weights. No ``update`` may follow."""
        self._references = []

    def state_dict(self) -> dict[str, Any]:
        """Return the distances so far and the copies of the weights."""
        return {"history": asdict(self.history), "references": [dict(r) for r in self._references]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from ``state_dict``.

        Args:
            state: The state.
        """
        self.history = DistanceHistory(**state["history"])
        self._references = [dict(r) for r in state["references"]]


def _distance(parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> float:
    """Return the Euclidean norm of all parameters, or of their difference from a reference, summed in float64."""
    squares = 0.0
    for name, p in parameters.items():
        difference = p if reference is None else p - reference[name].to(p.device)
        if difference.is_complex():
            difference = torch.view_as_real(difference.resolve_conj())
        squares += float(torch.linalg.vector_norm(difference, dtype=torch.float64)) ** 2
    return sqrt(squares)
