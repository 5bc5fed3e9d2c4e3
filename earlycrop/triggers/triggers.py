"""The triggers, and their table: when to prune (section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Any, Literal

from earlycrop.triggers.base import EpochWindow, Trigger, TriggerContext
from earlycrop.triggers.mask_distance import MaskHistory
from earlycrop.triggers.weight_distance import DEFINITIONS, Definition
from earlycrop.utils.validation import describe_unknown

TriggerName = Literal["before", "lazy-regime", "knee", "mask-distance", "after", "never"]
"""The keys of ``TRIGGERS``."""


class AtEpoch(Trigger):
    """Prune after a given number of epochs.

    Args:
        epoch: The number of epochs; 0 is before training, None is never.
        why: What the reason says beside the epoch.

    Raises:
        ValueError: The epoch is negative.
    """

    def __init__(self, epoch: int | None, why: str = "as set") -> None:
        if epoch is not None and epoch < 0:
            raise ValueError(f"the epoch to prune after must be 0 or more, and is {epoch}")
        self.latest, self.why = epoch, why

    def update(self, context: TriggerContext) -> str | None:
        if context.epoch != self.latest:
            return None
        return "before training" if context.epoch == 0 else f"after epoch {context.epoch}, {self.why}"


class LazyRegime(EpochWindow):
    """Prune when training enters the lazy regime: the distance of the weights from their start changes little.

    It prunes after the first epoch t >= ``earliest`` with (c_t / r_t) / (c_1 / r_1) <= ``threshold``, and after epoch
    ``latest`` in any case. c_t = |d_t - d_(t-1)| is the change, in epoch t, of the distance of the weights from their
    start, and r_t the sum of the learning rates of the epoch's steps.

    Source: Rachwan et al. 2022, section 4.3, eq. 10 to 12, with threshold th = 1 - rho for sparsity rho. Deviation: the
    change is taken by the learning rate, which is constant in the authors' training up to the cut.

    Args:
        threshold: The largest change at which it prunes.
        latest: The epoch after which it prunes in any case.
        earliest: The first epoch after which it may prune. At least 2 is used: epoch 1 is the reference.
        definition: How the change is written, one of :data:`earlycrop.triggers.weight_distance.DEFINITIONS`. The
            default is the formula above.
        meaning: What the threshold is, for the reason of the event.

    Raises:
        ValueError: The definition is unknown, or ``latest`` comes before ``earliest``.
    """

    uses_weight_distance = True

    def __init__(
        self,
        threshold: float,
        latest: int,
        earliest: int = 2,
        definition: Definition = "per_rate",
        meaning: str = "the threshold",
    ) -> None:
        if definition not in DEFINITIONS:
            raise ValueError(describe_unknown("definition of the lazy regime", definition, DEFINITIONS))
        super().__init__(latest, earliest)
        self.threshold, self.definition, self.meaning = threshold, definition, meaning

    def update(self, context: TriggerContext) -> str | None:
        change = context.distance.values().get(self.definition, inf)
        if context.epoch >= self.earliest and change <= self.threshold:
            return f"lazy regime: the weights' change ({self.definition}) is {change:.3g}, at most {self._bound()}"
        return self.latest_reason(context, f"the weights' change ({self.definition}) stayed above {self._bound()}")

    def _bound(self) -> str:
        return f"{self.meaning}, {self.threshold:.3g}"


class Knee(EpochWindow):
    """Prune at the knee of the weights' movement v_t = |d_t - d_(t-1)| / r_t.

    d_t is their distance from their start, and r_t the sum of the learning rates of epoch t's steps. It prunes when v_t
    is at most half of its largest value, and more than half of v_(t-1). The knee is detected one epoch after it. No
    threshold depends on the target or the learning rate.

    Source: this library. The fixed threshold of the lazy regime waits, for high sparsities, until the learning rate is
    almost zero.

    Args:
        latest: The epoch after which it prunes in any case.
        earliest: The first epoch after which it may prune. At least 2 is used: epoch 1 is the reference.

    Raises:
        ValueError: ``latest`` comes before ``earliest``.
    """

    uses_weight_distance = True

    def update(self, context: TriggerContext) -> str | None:
        values = context.distance.values()
        level, fall = values.get("level", inf), values.get("fall", 0.0)
        if context.epoch >= self.earliest and level <= 0.5 < fall:
            return f"knee: the weights moved {level:.3g} of the most in an epoch, and {fall:.3g} of the epoch before"
        return self.latest_reason(context, "the movement of the weights had no knee")


class MaskDistance(EpochWindow):
    """Prune when the mask that the method would prune with has settled.

    It prunes when the masks of the last ``masks`` epochs all differ from each other in less than the share ``below`` of
    their entries (the normalized Hamming distance).

    Source: Early-Bird tickets (You et al. 2020), section 4: 5 masks, 0.1.

    Args:
        latest: The epoch after which it prunes in any case.
        earliest: The first epoch after which it may prune. At least 2 is used.
        below: The share of entries.
        masks: The number of masks, at least 2.

    Raises:
        ValueError: ``latest`` comes before ``earliest``, or ``masks`` is below 2.
    """

    def __init__(self, latest: int, earliest: int = 2, below: float = 0.1, masks: int = 5) -> None:
        super().__init__(latest, earliest)
        self.below, self.masks, self.history = below, masks, MaskHistory(masks)
        self._log: dict[str, float] = {}

    def update(self, context: TriggerContext) -> str | None:
        if context.epoch == 0:
            return None
        distance = self.history.update(context.mask())
        count = len(self.history.masks)
        if distance is None:
            return self.latest_reason(context, "there was a single mask")
        self._log = {"mask_distance": distance}
        if context.epoch >= self.earliest and count == self.masks and distance < self.below:
            return f"the masks of the last {count} epochs differ by {distance:.3g}, less than {self.below:g}"
        return self.latest_reason(context, f"the masks of the last {count} epochs still differed by {distance:.3g}")

    def log(self) -> dict[str, float]:
        return dict(self._log)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.load_state_dict(state["masks"])


def before(sparsity: float, epochs: int) -> Trigger:
    """Prune before the first epoch."""
    return AtEpoch(0)


def never(sparsity: float, epochs: int) -> Trigger:
    """Prune nothing."""
    return AtEpoch(None)


def after(sparsity: float, epochs: int) -> Trigger:
    """Prune after three quarters of the epochs. The rest is fine-tuning.

    Raises:
        ValueError: There are fewer than 2 epochs.
    """
    if epochs < 2:
        raise ValueError(f"pruning after training needs at least 2 epochs, one of them to fine-tune, not {epochs}")
    return AtEpoch(epochs - max(1, epochs // 4), "the end of dense training")


def lazy_regime(sparsity: float, epochs: int) -> Trigger:
    """Prune in the lazy regime with threshold th = 1 - rho, within :func:`window`."""
    earliest, latest = window(epochs)
    return _explain_latest(LazyRegime(1 - sparsity, latest, earliest, meaning="1 - sparsity"))


def knee(sparsity: float, epochs: int) -> Trigger:
    """Prune at the knee of the movement, within :func:`window`."""
    earliest, latest = window(epochs)
    return _explain_latest(Knee(latest, earliest))


def mask_distance(sparsity: float, epochs: int) -> Trigger:
    """Prune when the mask has settled, within :func:`window`."""
    earliest, latest = window(epochs)
    return _explain_latest(MaskDistance(latest, earliest))


def _explain_latest(trigger: EpochWindow) -> EpochWindow:
    """Let the reason say why the latest epoch of :func:`window` is the latest."""
    trigger.why_latest = "half of the epochs"
    return trigger


def window(epochs: int) -> tuple[int, int]:
    """Return the earliest and the latest epoch of an early pruning: 1/20 and 1/2 of all epochs, and at least 2.

    Args:
        epochs: The number of epochs of the training.

    Returns:
        The earliest and the latest epoch.

    Raises:
        ValueError: There are fewer than 3 epochs.
    """
    if epochs < 3:
        raise ValueError(f"early pruning needs at least 3 epochs, 2 before it and 1 after, and there are {epochs}")
    return max(2, ceil(epochs / 20)), max(2, ceil(epochs / 2))


TRIGGERS: dict[str, Callable[[float, int], Trigger]] = {
    "before": before,
    "lazy-regime": lazy_regime,
    "knee": knee,
    "mask-distance": mask_distance,
    "after": after,
    "never": never,
}
"""Name -> a function that makes a trigger from the target sparsity and the number of epochs of the training."""


def trigger_by_name(name: str, sparsity: float, epochs: int) -> Trigger:
    """Make a trigger.

    Args:
        name: A key of ``TRIGGERS``, or the number of the epoch to prune after.
        sparsity: The target.
        epochs: The number of epochs of the training.

    Returns:
        The trigger.

    Raises:
        ValueError: There is no trigger of that name, or too few epochs for it.
    """
    if name.isdecimal():
        return AtEpoch(int(name))
    if name not in TRIGGERS:
        raise ValueError(describe_unknown("trigger", name, TRIGGERS) + ", or the number of an epoch to prune after")
    return TRIGGERS[name](sparsity, epochs)
