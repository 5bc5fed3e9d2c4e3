"""The table of methods: each named method of the paper is one row made of the parts in the other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from earlycrop.criteria import CRITERIA, Criterion
from earlycrop.schedule import Schedule, halving, one_shot
from earlycrop.trigger import AtEpoch, Trigger, lazy_regime


@dataclass(frozen=True)
class Method:
    """criterion x units x schedule x trigger. ``criterion`` None prunes nothing."""

    criterion: Criterion | None
    structured: bool
    schedule: Schedule
    trigger: Callable[[float, int], Trigger]
    """(sparsity, epochs) -> a trigger."""

    @property
    def iterative(self) -> bool:
        """Whether the number of rounds means anything."""
        return self.schedule is not one_shot


def before(sparsity: float, epochs: int) -> Trigger:
    """Prune before the first epoch."""
    return AtEpoch(0)


def never(sparsity: float, epochs: int) -> Trigger:
    """Prune nothing."""
    return AtEpoch(None)


_random, _snip, _grasp, _crop = (CRITERIA[name] for name in ("random", "snip", "grasp", "crop"))

METHODS: dict[str, Method] = {
    "dense": Method(None, False, one_shot, never),
    "random-u": Method(_random, False, one_shot, before),
    "random-s": Method(_random, True, one_shot, before),
    "snip": Method(_snip, False, one_shot, before),  # Lee et al. 2019
    "snap": Method(_snip, True, one_shot, before),  # Verdenius et al. 2020
    "grasp": Method(_grasp, False, one_shot, before),  # Wang et al. 2020
    "crop-u": Method(_crop, False, one_shot, before),  # Rachwan et al. 2022, as are those below
    "crop-s": Method(_crop, True, one_shot, before),
    "cropit-u": Method(_crop, False, halving, before),
    "cropit-s": Method(_crop, True, halving, before),
    "earlycrop-u": Method(_crop, False, halving, lazy_regime),
    "earlycrop-s": Method(_crop, True, halving, lazy_regime),
}
"""Name -> method. A name that ends in -u prunes single weights, in -s nodes; snip and grasp weights, snap nodes."""
