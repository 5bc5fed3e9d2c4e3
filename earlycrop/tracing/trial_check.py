"""Compare the channels of a trial cut with those of the first run, and collect what differs as faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.tracing.recorder import SPLIT, ChannelRecorder, ScalarArgs, unique_labels

OTHER_PARTS = "it is cut into parts of different sizes"
REMOVED = -2
HARD_CODED = "a size seems to be hard-coded in it: with some of its channels cut"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a smaller network.

    at: how many operations had run. path: the modules that were running, outermost first. reason: what is wrong.
    """

    at: int
    path: tuple[str, ...]
    reason: Reason

    @property
    def kind(self) -> str:
        """What similar faults of similar modules have in common: the module and the reason without numbers."""
        return re.sub(r"\d+", "", f"{self.reason.module}: {self.reason.why}")


class TrialRecorder(ChannelRecorder):
    """Record the run of a smaller network, whose channels are numbered by the classes of the first run.

    A fault is what would couple two classes, split one, or freeze one.

    Args:
        cut_classes: An entry a class; whether its group has lost nodes.
        single_classes: An entry a class; whether it is the only one along some dimension, which fits any other.
        multiplicity: For each class, how many channels of it the first run treated as different ones.
        expected: The scalars of the first run; None for those that differ from run to run.
        find_remaining: Returns the class of each channel of the first run, ``REMOVED`` for one that is cut, -1 for one
            of data. It is called where a split is compared.
    """

    def __init__(
        self,
        cut_classes: NodeMask,
        single_classes: NodeMask,
        multiplicity: ChannelLabels,
        expected: Sequence[ScalarArgs | None],
        find_remaining: Callable[[], ChannelLabels],
    ) -> None:
        super().__init__()
        self.cut_classes = np.append(cut_classes, False)  # the last entry is for channels of data: class -1
        self.checked_classes = np.append(cut_classes & ~single_classes, False)
        self.multiplicity = multiplicity
        self.expected = expected
        self._find_remaining = find_remaining
        self.followed: set[tuple[ScalarArgs, ScalarArgs]] = set()
        """Splits before and after the cut whose parts have lost the channels that are cut, and no others."""
        self.scalars_differ = False
        """Whether one of the faults is a scalar that is not the expected one."""
        self.faults: list[Fault] = []
        self._classes = np.zeros(0, np.int64)

    @cached_property
    def remaining(self) -> ChannelLabels:
        """The class of each channel of the first run, or what stands for channels of data and cut ones."""
        return self._find_remaining()

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
        self.parts_are_known = False
        if before is None or before.operation != scalars.operation or not self.cut_classes.any():
            return
        if scalars.operation == SPLIT:
            self._check_split(before, scalars)
        elif before != scalars:
            self.scalars_differ = True
            numbers = f"{scalars.numbers} instead of {before.numbers}"
            self._add_fault(f"it computes with {numbers}, which is taken from its own width")

    def _check_split(self, before: ScalarArgs, after: ScalarArgs) -> None:
        """Add a fault if a part has other channels than before the cut; without channels, if it has another share."""
        if before.parts and after.parts:
            self.parts_are_known = True
            if all(self._is_rest(*parts) for parts in zip(before.parts, after.parts, strict=True)):
                self.followed.add((before, after))
            else:
                self._add_fault(OTHER_PARTS)
        elif _shares(before) != _shares(after) and (before, after) not in self.followed:
            self.scalars_differ = True
            self._add_fault(OTHER_PARTS)

    def _is_rest(self, before: ChannelLabels, after: ChannelLabels) -> bool:
        """Return whether channels are those of the first run without those that are cut, in the same order."""
        expected, actual = self.remaining[before], self.classes_of(after)
        expected = expected[expected != REMOVED]
        return expected.size == actual.size and bool(((expected == actual) | (actual < 0)).all())

    def is_same(self, a: ChannelLabels, b: ChannelLabels) -> bool:
        return bool((self.classes_of(a) == self.classes_of(b)).all())

    def _add_fault(self, why: str) -> None:
        reason = Reason(self.operation, self.module, f"{HARD_CODED}, {why}")
        self.faults.append(Fault(self.operation_count, tuple(self.module_stack), reason))


def _shares(split: ScalarArgs) -> list[float]:
    width, *parts = split.numbers
    return [part / width for part in parts if width]
