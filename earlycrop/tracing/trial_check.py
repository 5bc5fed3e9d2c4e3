"""A small network's channels against those of the first run: what makes two of them one, or parts one, is a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.tracing.recorder import PARTS, ChannelRecorder, ScalarArgs, unique_labels

HARD_CODED = "a size seems to be written into it: with some of its channels cut"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a small network: after how many operations, in which modules (outermost first), and why."""

    at: int
    path: tuple[str, ...]
    reason: Reason


class TrialRecorder(ChannelRecorder):
    """Channels come with their classes; what would make two classes one, part one, or freeze one, is a fault.

    ``tested``: an entry a class, whether its group has lost nodes. ``alone``: whether a dimension has only this class
    left, and fits whatever it meets. ``most``: how many of a class were told apart in the first run. ``expected``: the
    plain numbers that it reckoned with, None where those say nothing.
    """

    def __init__(
        self, tested: NodeMask, alone: NodeMask, most: ChannelLabels, expected: Sequence[ScalarArgs | None]
    ) -> None:
        super().__init__()
        self.tested = np.append(tested, False)  # the last entry serves channels of data, which have no class: -1
        self.firm = np.append(tested & ~alone, False)
        self.multiplicity = most
        self.expected = expected
        self.reckons_otherwise = False
        """Whether one of the faults is a number that is not what was expected."""
        self.classes = np.zeros(0, np.int64)
        self.faults: list[Fault] = []

    def of(self, channels: ChannelLabels) -> ChannelLabels:
        """The classes of channels."""
        if self.classes.size < self.count:
            self.classes = np.append(self.classes, np.full(self.count - self.classes.size, -1))
        return self.classes[channels]

    def told(self, several: Sequence[ChannelLabels]) -> list[ChannelLabels]:
        """For each, new channels of these classes."""
        self.classes = np.concatenate([self.classes, *several])
        return [self.fresh(classes.size) for classes in several]

    def join(self, a: ChannelLabels, b: ChannelLabels) -> None:
        if a is b:
            return
        first, second = self.of(a), self.of(b)
        different = first != second
        if not different.any():
            return
        first, second = (np.broadcast_to(c, different.shape)[different] for c in (first, second))
        told = np.minimum(first, second) >= 0
        if (self.firm[first] | self.firm[second])[told].any():
            self._object("channels that were apart become one")

    def freeze(self, fields: Sequence[ChannelLabels | None], why: str) -> None:
        if any(f is not None and self.firm[self.of(f)].any() for f in fields):
            self._object(why)

    def share(self, small: ChannelLabels, large: ChannelLabels) -> None:
        """Told apart in the first run."""

    def apart(self, channels: ChannelLabels) -> None:
        known, times = np.unique(self.of(unique_labels(channels)), return_counts=True)
        if (self.tested[known] & (times > self.multiplicity[known])).any():
            self._object("channels that were one are apart")

    def reckoned(self, numbers: ScalarArgs) -> None:
        super().reckoned(numbers)
        place = len(self.numbers) - 1
        before = self.expected[place] if place < len(self.expected) else None
        if before is not None and before[0] == numbers[0] and before != numbers and self.tested.any():
            self.reckons_otherwise = True
            computed = f"it computes with {numbers[1]} instead of {before[1]}, which is taken from its own width"
            self._object("it is cut into parts of different sizes" if numbers[0] == PARTS else computed)

    def same(self, a: ChannelLabels, b: ChannelLabels) -> bool:
        return bool((self.of(a) == self.of(b)).all())

    def _object(self, why: str) -> None:
        reason = Reason(self.operation, self.module, f"{HARD_CODED}, {why}")
        self.faults.append(Fault(self.done, tuple(self.stack), reason))
