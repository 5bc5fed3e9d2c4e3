"""What a pruning must respect layer by layer: floors, ceilings, layers to leave alone, and multiples of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction
from numbers import Integral, Real

from torch import nn

from earlycrop.graph.types import layers_of
from earlycrop.utils.parameters import weight_matrices
from earlycrop.utils.validation import check_type, describe, to_python_number

Amount = int | float
"""A number of a layer's outputs (or weights), or as a float a share of them, above 0 and at most 1."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a pruning must respect beside its target.

    Patterns are those of the shell (``"layer1.*"``, ``"*.downsample.0"``); a pattern matches a layer (a module with a
    weight matrix, as :meth:`earlycrop.Graph.report` lists it) by its name, or by that of a module it is in, so that
    ``"layer1"`` is all of ``layer1``. Amounts count a layer's outputs as that report does: an LSTM's unit, an attention
    head or the channels that a grouped convolution can only lose together are one. Of a pruning of single weights they
    count a layer's weights. All are of the network as it was before the first round, and of several that match, the
    strictest holds.

    floors: the least that stays, rounded up. ceilings: the most that stays, rounded down to no less than 1: the layer
    shrinks that far even if its scores are high, in step with the rounds (at once where training lies between them, as
    in ticks and lottery tickets); layers that can lose nothing are passed over.
    exclude: layers whose outputs (or weights) all stay; what they consume may still go with the layer that makes it.
    Layers that share their nodes (through a residual sum, say) shrink together: a limit on one of them is one on all.

    multiple: of every group of coupled layers, so many channels stay that each dimension of a weight matrix that loses
    some is left with a multiple of this from that group, rounded up; 8 suits tensor cores. A group whose own number of
    channels is no multiple may stay whole, and so may what is frozen beside it.

    Raises:
        TypeError: floors and ceilings are no mappings, or exclude has what is no pattern. ValueError: an amount or
        ``multiple`` is out of its range.
    """

    floors: Mapping[str, Amount] = field(default_factory=dict)
    ceilings: Mapping[str, Amount] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    multiple: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            raise ValueError(f"exclude is a list of patterns, and is a string: write [{self.exclude!r}]")
        check_type("exclude", self.exclude, Iterable, 'write ["layer1", "*.proj"]')
        object.__setattr__(self, "exclude", tuple(self.exclude))
        for pattern in self.exclude:
            check_type("a pattern of exclude", pattern, str, "give a layer's name, or a pattern of names")
        for option in ("floors", "ceilings"):
            check_type(option, getattr(self, option), Mapping, 'write {"layer1": 0.25}, of a pattern and an amount')
            amounts = {k: to_python_number(v) if isinstance(v, Real) else v for k, v in getattr(self, option).items()}
            object.__setattr__(self, option, amounts)  # plain, for records
            for pattern, amount in amounts.items():
                if not (0 < amount <= 1 if isinstance(amount, float) else isinstance(amount, int) and amount >= 1):
                    raise ValueError(
                        f"{option}[{pattern!r}] is {describe(amount)}: give a whole number of at least 1, or as a "
                        "float a share of the layer, above 0 and at most 1"
                    )
        if not isinstance(self.multiple, Integral):
            raise ValueError(f"multiple must be a whole number, and is {describe(self.multiple)}: 1 rounds nothing")
        object.__setattr__(self, "multiple", int(self.multiple))
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, and is {self.multiple}: 1 rounds nothing")

    def require_known(self, model: nn.Module) -> None:
        """Raise ValueError for a pattern that matches no layer of the model."""
        names = layers_of(weight_matrices(model))
        for pattern in (*self.exclude, *self.floors, *self.ceilings):
            _matching_layers(pattern, names)

    def resolved(self, names: Sequence[str], widths: Mapping[str, int], movable: Mapping[str, int]) -> Bounds:
        """The limits in numbers, for the layers ``names``.

        ``widths``: how many outputs (or weights) a layer has; ``movable``: how many of them can be removed.

        Raises:
            ValueError: a pattern matches no layer, a floor is above the width of every layer that it matches, or a
            ceiling is on layers that can lose nothing.
        """
        least: dict[str, int] = {}
        most: dict[str, int] = {}
        for pattern, amount in self.floors.items():
            found = [n for n in _matching_layers(pattern, names) if n in widths]
            widest = max((widths[n] for n in found), default=0)
            if found and not isinstance(amount, float) and amount > widest:
                raise ValueError(
                    f"floors[{pattern!r}] is {amount}, and the widest layer that it matches has {widest}: ask for "
                    "less, or for a share"
                )
            for n in found:
                least[n] = max(least.get(n, 0), _to_count(amount, widths[n], up=True))
        for pattern, amount in self.ceilings.items():
            found = [n for n in _matching_layers(pattern, names) if movable.get(n)]
            if not found:
                raise ValueError(
                    f"ceilings[{pattern!r}] is on layers that can lose nothing: see Graph.report() for why"
                )
            for n in found:
                most[n] = min(most.get(n, widths[n]), _to_count(amount, widths[n], up=False))
        for pattern in self.exclude:
            least |= {n: widths[n] for n in _matching_layers(pattern, names) if n in widths}
        return Bounds(dict(widths), least, most, self.multiple)


@dataclass(frozen=True)
class Bounds:
    """Limits in numbers: the width of every layer, and the least and the most of it that stays where that is limited.

    Made by :func:`earlycrop.selection.nodes.node_bounds` and :func:`earlycrop.selection.weights.weight_bounds`.
    """

    widths: Mapping[str, int]
    min_kept: Mapping[str, int]
    max_kept: Mapping[str, int]
    multiple: int = 1

    def part(self, share: float) -> Bounds:
        """The bounds of a round that goes ``share`` of the way: ceilings come down in step with the target."""
        most = {n: self.widths[n] - int((self.widths[n] - m) * share) for n, m in self.max_kept.items()}
        return replace(self, max_kept=dict(self.max_kept) if share >= 1 else most)

    def conflict(self, layer: str, held: int) -> ValueError:
        """What to raise where floors hold ``held`` of a layer and its ceiling is lower."""
        return ValueError(
            f"of layer '{layer}' at most {self.max_kept[layer]} of {self.widths[layer]} are to stay, and floors or "
            f"exclude hold {held}: raise its ceiling, or lower what holds it"
        )


NO_LIMITS = Limits()
"""Nothing but the target."""
NO_BOUNDS = Bounds({}, {}, {})
"""Nothing but the target, in numbers."""


def _to_count(amount: Amount, width: int, up: bool) -> int:
    if not isinstance(amount, float):
        return min(amount, width)
    share = Fraction(repr(float(amount))) * width  # as it is written in decimals
    return -int(-share // 1) if up else max(1, int(share))


def _matching_layers(pattern: str, names: Sequence[str]) -> list[str]:
    found = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
    if not found:
        near = ", ".join(f"'{n}'" for n in get_close_matches(pattern, names, n=3, cutoff=0.0))
        raise ValueError(f"no layer with a weight matrix matches '{pattern}': the nearest are {near}")
    return found
