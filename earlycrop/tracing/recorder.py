"""What is known of each tensor while a network runs: its fields, and whether it is a weight.

A :class:`Watch` collects three things from the rules in ``_rules``: which channels are the same one (joins), which may
not be cut and why (freezes), and what each parameter's channels are for (roles). ``_classes`` works out what they say
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, CostTerm, Reason, Role
from earlycrop.tracing.labels import expand_labels, pad_front, varying_dims


@dataclass(slots=True)
class TensorInfo:
    """What is known of one tensor.

    uniform: all its entries are equal, so that it fits any size. weight: it is a parameter, moved at most. vanishes:
    its entries are zero once the parameters of their channels are. shape: its shape when this was learnt.
    """

    fields: list[ChannelLabels] = field(default_factory=list)
    uniform: bool = False
    weight: bool = False
    vanishes: bool = False
    shape: tuple[int, ...] = ()


UNKNOWN = TensorInfo()
_INFO_ATTRIBUTE = "_earlycrop_known"
Arguments: TypeAlias = tuple[Any, ...]
Options: TypeAlias = Mapping[str, Any]
"""What an operation was given, by position and by name."""
ScalarArgs: TypeAlias = tuple[str, tuple[float, ...]]
"""The name of an operation, and the plain numbers that it was given."""
PARTS = "parts"
"""In place of the name: how much of a dimension each part of a split or slice has."""


class ChannelRecorder:
    """Fields of the tensors of one run, and the joins, freezes, roles and work that its operations imply."""

    def __init__(self) -> None:
        self.count = 0
        self.joins: list[tuple[ChannelLabels, ChannelLabels]] = []
        self.freezes: list[tuple[ChannelLabels, Reason]] = []
        self.roles: list[tuple[ChannelLabels, Role]] = []
        self.shared: list[tuple[ChannelLabels, ChannelLabels, Reason]] = []
        self.parts: list[ChannelLabels] = []
        self.activation_products: list[ChannelLabels] = []
        self.rectangles: list[ChannelLabels] = []
        self.cost_terms: list[CostTerm] = []
        self.seen: set[int] = set()
        """Ids of the tensors that an operation was given."""
        self.stack: list[str] = []
        """Names of the modules that are running, outermost first."""
        self.operation: str = ""
        self.training = False
        self.real = False
        self.numbers: list[ScalarArgs] = []
        """The plain numbers that went into the arithmetic, in order."""
        self.done = 0
        """How many operations have run."""

    @property
    def module(self) -> str:
        return self.stack[-1] if self.stack else ""

    def reckoned(self, numbers: ScalarArgs) -> None:
        """An operation on entries was given these."""
        self.numbers.append(numbers)

    def known(self, tensor: object) -> TensorInfo:
        watch, known = getattr(tensor, _INFO_ATTRIBUTE, (None, UNKNOWN))
        return known if watch is self else UNKNOWN

    def fields(self, tensor: object) -> list[ChannelLabels]:
        return self.known(tensor).fields

    def learn(
        self, tensor: Tensor, fields: Sequence[ChannelLabels] = (), uniform: bool = False, weight: bool = False
    ) -> None:
        known = TensorInfo([f for f in fields if f.size > 1], uniform, weight, weight, tensor.shape)
        setattr(tensor, _INFO_ATTRIBUTE, (self, known))  # on the tensor, so that it lives as long as that does

    def fresh(self, n: int) -> ChannelLabels:
        self.count += n
        return np.arange(self.count - n, self.count)

    def enter(self, tensor: Tensor, weight: bool) -> list[ChannelLabels | None]:
        """Give each dimension of a parameter or buffer channels of its own: a vector of them, or None if 1 wide."""
        vectors = [self.fresh(n) if n > 1 else None for n in tensor.shape]
        fields = [expand_labels(v, d, tensor.ndim) for d, v in enumerate(vectors) if v is not None]
        self.learn(tensor, fields, weight=weight)
        return vectors

    def join(self, a: ChannelLabels, b: ChannelLabels) -> None:
        """Where they meet, the channels of ``a`` and ``b`` are the same."""
        if a is b:
            return
        if a.shape == b.shape:
            self.joins.append((a.reshape(-1), b.reshape(-1)))
            return
        a, b = np.broadcast_arrays(a, b)
        different = a != b
        self.joins.append((a[different], b[different]))

    def freeze(self, fields: Sequence[ChannelLabels | None], why: str) -> None:
        given = [f for f in fields if f is not None]
        if given:
            reason = Reason(self.operation, self.module, why)
            self.freezes += [(unique_labels(f), reason) for f in given]

    def share(self, small: ChannelLabels, large: ChannelLabels) -> None:
        """``small`` meets ``large``, which runs along other dimensions too: a scale for each position within a head.

        Either positions go in all heads at once, with their scales, or whole heads go, and the scales stay. That is
        told apart at the end, when it is known whether something else wants heads whole.
        """
        reason = Reason(self.operation, self.module, "it is shared by what can only go whole, such as heads")
        self.shared.append((small, large, reason))

    def apart(self, channels: ChannelLabels) -> None:
        """These are treated as different ones: heads, groups of a norm."""
        self.parts.append(unique_labels(channels))

    def same(self, a: ChannelLabels, b: ChannelLabels) -> bool:
        """Whether these are known to be the same already."""
        return bool((a == b).all())

    def role(self, vector: ChannelLabels | None, role: Role) -> None:
        if vector is not None:
            self.roles.append((vector, role))

    def vector(self, tensor: object, dim: int, without: int | None = None) -> ChannelLabels | None:
        """The channels along ``dim``; what depends on other dimensions as well is coupled along those.

        Fields that depend on the dimension ``without`` are left out.
        """
        found: ChannelLabels | None = None
        for f in self.fields(tensor):
            if f.shape[dim] == 1 or (without is not None and f.shape[without] > 1):
                continue
            if f.size == f.shape[dim]:
                found = f.reshape(-1)
            else:
                by_index = np.moveaxis(f, dim, 0).reshape(f.shape[dim], -1)
                self.join(by_index, by_index[:, :1])
                found = by_index[:, 0]
        return found

    def elementwise(self, operands: Sequence[Any], ndim: int) -> list[ChannelLabels]:
        """Fields of an elementwise result: what the operands have along the same dimension is joined.

        An operand that is as wide as the others there, but has no channels, holds a fixed number of values: it freezes
        them.
        """
        tensors = [t for t in operands if isinstance(t, Tensor) and 0 < t.ndim <= ndim]
        if tensors and all(t.ndim == ndim and len(self.fields(t)) == 1 for t in tensors):
            first, *others = (self.fields(t)[0] for t in tensors)
            if all(f.shape == first.shape for f in others):  # as most are
                for f in others:
                    self.join(f, first)
                return [first]
        result: list[ChannelLabels] = []
        for f in (pad_front(f, ndim) for t in tensors for f in self.fields(t)):
            meeting = [i for i, r in enumerate(result) if set(varying_dims(f)) & set(varying_dims(r))]
            for i in meeting:
                small, large = sorted((f, result[i]), key=lambda g: len(varying_dims(g)))
                if set(varying_dims(small)) < set(varying_dims(large)):
                    self.share(small, large)
                else:
                    self.join(f, result[i])
                if f.size > result[i].size:
                    result[i] = f
            if not meeting:
                result.append(f)
        for t in tensors:
            if self.known(t).uniform:
                continue
            covered = {d for f in self.fields(t) for d in varying_dims(pad_front(f, ndim))}
            start = ndim - t.ndim
            fixed = {start + d for d, n in enumerate(t.shape) if n > 1 and t.stride(d)} - covered
            result = [
                g for f in result if (g := self.across(f, fixed, "it meets a tensor of a fixed size")) is not None
            ]
        return result

    def across(self, f: ChannelLabels, dims: set[int], why: str) -> ChannelLabels | None:
        """The field where all that lies along ``dims`` must stay: what runs along other dimensions as well (heads,
        beside positions within them) can only go whole; otherwise it may not go, and there is none.
        """
        for d in dims & set(varying_dims(f)):
            whole = f.take([0], axis=d)
            if whole.size == 1:
                self.freeze([f], why)
                return None
            self.join(f, whole)
            f = whole
        return f


def unique_labels(channels: ChannelLabels) -> ChannelLabels:
    """The channels in a field, those of a matrix of them once each."""
    return channels.reshape(-1) if channels.size == max(channels.shape) else np.unique(channels)
