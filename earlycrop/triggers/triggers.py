"""When to prune: before training, at a fixed epoch, after training, never; in the lazy regime, at the knee of the
weights' movement, or when the mask has settled.

A trigger is asked after every epoch (and once before the first) and answers with the reason to prune now, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.triggers.mask_distance import MaskHistory
from earlycrop.triggers.weight_distance import DEFINITIONS, WeightDistance


@dataclass(frozen=True)
class TriggerContext:
    """What a trigger may look at: the model after ``epoch`` epochs (0: before the first), how its weights have moved
    (for triggers with ``walks``), and the mask that the method would prune with now (one dimension, true: removed).
    """

    model: nn.Module
    epoch: int
    walk: WeightDistance
    mask: Callable[[], Tensor]


@runtime_checkable
class Trigger(Protocol):
    """Decides when a method prunes.

    latest: the epoch at which it fires at the latest, None if it never does. walks: whether it looks at distances.
    """

    latest: int | None
    walks: bool

    def update(self, look: TriggerContext) -> str | None:
        """Why to prune now, or None."""

    def log(self) -> dict[str, float]:
        """What it measured at the last update, beside distances."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: tensors, numbers, strings, and dicts and lists of them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``."""


class AtEpoch:
    """Prune after a given number of epochs: 0 is before training, None never."""

    walks = False

    def __init__(self, epoch: int | None, why: str = "as set") -> None:
        if epoch is not None and epoch < 0:
            raise ValueError(f"the epoch to prune after must be 0 or more, and is {epoch}")
        self.latest, self.why = epoch, why

    def update(self, look: TriggerContext) -> str | None:
        if look.epoch != self.latest:
            return None
        return "before training" if look.epoch == 0 else f"after epoch {look.epoch}, {self.why}"

    def log(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state  # it has none


class _Windowed:
    """A trigger with an earliest and a latest epoch; epoch 1 is its yardstick at least."""

    def __init__(self, latest: int, earliest: int) -> None:
        self.latest: int | None = latest
        self.earliest = max(earliest, 2)
        if latest < self.earliest:
            raise ValueError(
                f"the latest epoch to prune, {latest}, comes before the earliest, {self.earliest}: raise it"
            )

    def late(self, look: TriggerContext, why: str) -> str | None:
        """The reason at the latest epoch."""
        assert self.latest is not None
        return f"latest epoch {self.latest}: {why}" if look.epoch >= self.latest else None

    def log(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state  # what it looks at has


class LazyRegime(_Windowed):
    """Prune when the weights stop moving away from where they started: at the first epoch t >= ``earliest`` at which
    the chosen definition of the change is at most ``threshold``, and at epoch ``latest`` in any case.

    Source: Rachwan et al. 2022, section 4.3, with th = 1 - rho. ``earliest`` is at least 2: epoch 1 is the yardstick.

    Raises:
        ValueError: the definition is unknown, or ``latest`` comes before ``earliest``.
    """

    walks = True

    def __init__(self, threshold: float, latest: int, earliest: int = 2, definition: str = "unsquared") -> None:
        if definition not in DEFINITIONS:
            raise ValueError(
                f"there is no definition '{definition}' of the lazy regime: take one of {', '.join(DEFINITIONS)}"
            )
        super().__init__(latest, earliest)
        self.threshold, self.definition = threshold, definition

    def update(self, look: TriggerContext) -> str | None:
        value = look.walk.values().get(self.definition, inf)
        if look.epoch >= self.earliest and value <= self.threshold:
            return f"lazy regime: {self.definition} change {value:.3g}, at most {self.threshold:.3g}"
        return self.late(look, f"the {self.definition} change stayed above {self.threshold:.3g}")


class Knee(_Windowed):
    """Prune at the knee of the movement c_t = |d_t - d_(t-1)|, where d_t is the distance of the weights from their
    start: when it has fallen to at most half of its largest value, and c_t is more than half of c_(t-1).

    No threshold depends on the target or the learning rate; the knee is seen an epoch after it. Ours: the fixed
    threshold of the lazy regime waits, for high sparsities, until the learning rate dies.
    """

    walks = True

    def __init__(self, latest: int, earliest: int = 2) -> None:
        super().__init__(latest, earliest)

    def update(self, look: TriggerContext) -> str | None:
        values = look.walk.values()
        low, flat = values.get("level", inf), values.get("fall", 0.0)
        if look.epoch >= self.earliest and low <= 0.5 < flat:
            return f"knee: the weights moved {low:.3g} of the most in an epoch, and {flat:.3g} of the epoch before"
        return self.late(look, "the movement of the weights had no knee")


class MaskDistance(_Windowed):
    """Prune when the mask that would be pruned with has settled: those of the last ``masks`` epochs all differ from
    each other in less than the share ``below`` of their entries (the normalised Hamming distance).

    Source: Early-Bird tickets (You et al. 2020), section 4: 5 masks, 0.1.
    """

    walks = False

    def __init__(self, latest: int, earliest: int = 2, below: float = 0.1, masks: int = 5) -> None:
        super().__init__(latest, earliest)
        self.below, self.masks, self.change = below, masks, MaskHistory(masks)
        self._log: dict[str, float] = {}

    def update(self, look: TriggerContext) -> str | None:
        if look.epoch == 0:
            return None
        worst = self.change.update(look.mask())
        seen = len(self.change.last)
        if worst is None:
            return self.late(look, "there was a single mask")
        self._log = {"mask_distance": worst}
        if look.epoch >= self.earliest and seen == self.masks and worst < self.below:
            return f"the masks of the last {seen} epochs differ by {worst:.3g}, less than {self.below:g}"
        return self.late(look, f"the masks of the last {seen} epochs still differed by {worst:.3g}")

    def log(self) -> dict[str, float]:
        return dict(self._log)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.change.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.change.load_state_dict(state["last"])


def before(sparsity: float, epochs: int) -> Trigger:
    """Prune before the first epoch."""
    return AtEpoch(0)


def never(sparsity: float, epochs: int) -> Trigger:
    """Prune nothing."""
    return AtEpoch(None)


def after(sparsity: float, epochs: int) -> Trigger:
    """Prune when three quarters of the epochs are done, which are the dense training; the rest is fine-tuning.

    Raises:
        ValueError: there are too few epochs for both.
    """
    if epochs < 2:
        raise ValueError(f"pruning after training needs at least 2 epochs, one of them to fine-tune, not {epochs}")
    return AtEpoch(epochs - max(1, epochs // 4), "the end of dense training")


def lazy_regime(sparsity: float, epochs: int) -> Trigger:
    """The lazy regime with th = 1 - rho, within :func:`window`."""
    earliest, latest = window(epochs)
    return LazyRegime(1 - sparsity, latest, earliest)


def knee(sparsity: float, epochs: int) -> Trigger:
    """The knee of the movement, within :func:`window`."""
    earliest, latest = window(epochs)
    return Knee(latest, earliest)


def mask_distance(sparsity: float, epochs: int) -> Trigger:
    """Early-Bird's, within :func:`window`."""
    earliest, latest = window(epochs)
    return MaskDistance(latest, earliest)


def window(epochs: int) -> tuple[int, int]:
    """The earliest and the latest epoch of an early pruning: 1/20 and 1/4 of them, and no less than 2.

    Raises:
        ValueError: there are too few epochs to prune early in them.
    """
    if epochs < 3:
        raise ValueError(f"early pruning needs at least 3 epochs, 2 before it and 1 after, and there are {epochs}")
    return max(2, ceil(epochs / 20)), max(2, ceil(epochs / 4))


TriggerName = Literal["before", "lazy-regime", "knee", "mask-distance", "after", "never"]
"""The names in ``TRIGGERS``."""

TRIGGERS: dict[TriggerName, Callable[[float, int], Trigger]] = {
    "before": before,
    "lazy-regime": lazy_regime,
    "knee": knee,
    "mask-distance": mask_distance,
    "after": after,
    "never": never,
}
"""Name -> (sparsity, epochs) -> a trigger."""


def trigger_by_name(name: str, sparsity: float, epochs: int) -> Trigger:
    """The trigger of that name in ``TRIGGERS``; a whole number is the epoch to prune after.

    Raises:
        ValueError: there is none, or it cannot fire within the epochs.
    """
    if name.isdecimal():
        return AtEpoch(int(name))
    if name not in TRIGGERS:
        known = ", ".join(TRIGGERS)
        raise ValueError(
            f"there is no trigger '{name}': take one of {known}, or the number of the epoch to prune after"
        )
    return TRIGGERS[name](sparsity, epochs)
