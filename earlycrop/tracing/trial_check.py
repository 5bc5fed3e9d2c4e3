"""Compare the channels of a trial cut with those of the first run, and collect what differs as faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.tracing.recorder import SPLIT_SHARES, ChannelRecorder, ScalarArgs, unique_labels

HARD_CODED = "a size seems to be hard-coded in it: with some of its channels cut"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a smaller network.

    at: how many operations had run. path: the modules that were running, outermost first. reason: what is wrong.
    """

    at: int
    path: tuple[str, ...]
    reason: Reason


class TrialRecorder(ChannelRecorder):
    """Record the run of a smaller network, whose channels are numbered by the classes of the first run.

    A fault is what would couple two classes, split one, or freeze one.

    Args:
        cut_classes: An entry a class; whether its group has lost nodes.
        single_classes: An entry a class; whether it is the only one along some dimension, which fits any other.
        multiplicity: For each class, how many channels of it the first run treated as different ones.
        expected: The scalars of the first run; None for those that differ from run to run.
    """

    def __init__(
        self,
        cut_classes: NodeMask,
        single_classes: NodeMask,
        multiplicity: ChannelLabels,
        expected: Sequence[ScalarArgs | None],
    ) -> None:
        super().__init__()
        self.cut_classes = np.append(cut_classes, False)  # the last entry is for channels of data: class -1
        self.checked_classes = np.append(cut_classes & ~single_classes, False)
        self.multiplicity = multiplicity
        self.expected = expected
        self.scalars_differ = False
        """Whether one of the faults is a scalar that is not the expected one."""
        self.faults: list[Fault] = []
        self._classes = np.zeros(0, np.int64)

    def classes_of(self, channels: ChannelLabels) -> ChannelLabels:
        """Return the classes of channels, -1 for channels of data."""
        if self._classes.size < self.channel_count:
            self._classes = np.append(self._classes, np.full(self.channel_count - self._classes.size, -1))
        return self._classes[channels]

    def new_channels_of(self, classes: Sequence[ChannelLabels]) -> list[ChannelLabels]:
        """Return new channels of the classes in each of these vectors."""
        self._classes = np.concatenate([self._classes, *classes])
        return [self.new_channels(vector.size) for vector in classes]

    def join(self, a: ChannelLabels, b: ChannelLabels) -> None:
        if a is b:
            return
        first, second = self.classes_of(a), self.classes_of(b)
        different = first != second
        if not different.any():
            return
        first, second = (np.broadcast_to(c, different.shape)[different] for c in (first, second))
        have_class = np.minimum(first, second) >= 0
        if (self.checked_classes[first] | self.checked_classes[second])[have_class].any():
            self._add_fault("channels that were separate are coupled")

    def freeze(self, labels: Sequence[ChannelLabels | None], why: str) -> None:
        if any(array is not None and self.checked_classes[self.classes_of(array)].any() for array in labels):
            self._add_fault(why)

    def broadcast_join(self, small: ChannelLabels, large: ChannelLabels) -> None:
        """Do nothing: the first run has decided."""

    def mark_distinct(self, channels: ChannelLabels) -> None:
        classes, counts = np.unique(self.classes_of(unique_labels(channels)), return_counts=True)
        if (self.cut_classes[classes] & (counts > self.multiplicity[classes])).any():
            self._add_fault("channels that were coupled are separate")

    def record_scalars(self, scalars: ScalarArgs) -> None:
        position = len(self.scalars)
        super().record_scalars(scalars)
        before = self.expected[position] if position < len(self.expected) else None
        if before is not None and before[0] == scalars[0] and before != scalars and self.cut_classes.any():
            self.scalars_differ = True
            why = f"it computes with {scalars[1]} instead of {before[1]}, which is taken from its own width"
            self._add_fault("it is cut into parts of different sizes" if scalars[0] == SPLIT_SHARES else why)

    def is_same(self, a: ChannelLabels, b: ChannelLabels) -> bool:
        return bool((self.classes_of(a) == self.classes_of(b)).all())

    def _add_fault(self, why: str) -> None:
        reason = Reason(self.operation, self.module, f"{HARD_CODED}, {why}")
        self.faults.append(Fault(self.operation_count, tuple(self.module_stack), reason))
