"""Limits that a pruning respects layer by layer: floors, ceilings, excluded layers, multiples of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction

from torch import nn

from earlycrop.graph.types import layer_of
from earlycrop.utils.parameters import weight_matrices
from earlycrop.utils.validation import check_positive_int, check_type, describe, is_number, to_python_number

Amount = int | float
"""A number of a layer's outputs (or weights), or as a float a share of them, above 0 and at most 1."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that a pruning respects beside its target.

    Patterns are shell patterns, such as ``"layer1.*"`` or ``"*.downsample.0"``. A pattern matches a layer (a module
    with a weight matrix, as :meth:`earlycrop.Graph.report` lists it) by its name, or by the name of a module that
    contains it: ``"layer1"`` matches all of ``layer1``. If several patterns match a layer, the strictest limit holds.
    Layers that share their nodes, for example through a residual sum, shrink together: a limit on one of them limits
    all.

    Amounts count a layer's outputs as the report does: an LSTM unit, an attention head, or the channels that a grouped
    convolution can only lose together count once. If single weights are pruned, amounts count a layer's weights. All
    amounts refer to the network before the first round.

    Args:
        floors: By pattern, the amount of a layer that stays at least, rounded up.
        ceilings: By pattern, the amount of a layer that stays at most, rounded down, but at least 1. The layer shrinks
            that far even if its scores are high: step by step over the rounds, or at once if there is training between
            the rounds (gate decorators, lottery tickets). Layers that cannot be pruned are ignored.
        exclude: Patterns of layers whose outputs (or weights) all stay. Their inputs may still be removed, with the
            layer that produces them.
        multiple: Each dimension of a weight matrix that loses channels of a group of coupled layers keeps a multiple of
            this number of them, rounded up. 8 suits tensor cores. A group whose number of channels is no multiple may
            stay as it is, and so may channels that cannot be pruned.
        include: Patterns of layers that lose single weights although they are not the weight of a matrix product, a
            convolution or a recurrent cell: embedding tables, class tokens, embeddings of positions, layer scales. By
            default these stay, and a target does not count them. Nodes are not affected.

    Raises:
        TypeError: ``floors`` or ``ceilings`` is not a mapping, ``exclude`` or ``include`` contains something that is
            not a pattern, or ``multiple`` is not a whole number.
        ValueError: An amount or ``multiple`` is out of its range.
    """

    floors: Mapping[str, Amount] = field(default_factory=dict)
    ceilings: Mapping[str, Amount] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    multiple: int = 1
    include: Sequence[str] = ()

    def __post_init__(self) -> None:
        for option in ("exclude", "include"):
            patterns = getattr(self, option)
            if isinstance(patterns, str):
                raise ValueError(f"{option} is a list of patterns, and is a string: write [{patterns!r}]")
            check_type(option, patterns, Iterable, 'write ["layer1", "*.proj"]')
            object.__setattr__(self, option, tuple(patterns))
            for pattern in patterns:
                check_type(f"a pattern of {option}", pattern, str, "give a layer's name, or a pattern of names")
        for option in ("floors", "ceilings"):
            check_type(option, getattr(self, option), Mapping, 'write {"layer1": 0.25}, of a pattern and an amount')
            amounts = {k: to_python_number(v) if is_number(v) else v for k, v in getattr(self, option).items()}
            object.__setattr__(self, option, amounts)  # Python numbers, so that records can be saved
            for pattern, amount in amounts.items():
                check_type(f"a pattern of {option}", pattern, str, "give a layer's name, or a pattern of names")
                is_int = isinstance(amount, int) and not isinstance(amount, bool)
                if not (0 < amount <= 1 if isinstance(amount, float) else is_int and amount >= 1):
                    raise ValueError(
                        f"{option}[{pattern!r}] is {describe(amount)}: give a whole number of at least 1, or as a "
                        "float a share of the layer, above 0 and at most 1"
                    )
        object.__setattr__(self, "multiple", check_positive_int("multiple", self.multiple))

    def check_layers(self, model: nn.Module) -> None:
        """Check that every pattern matches a layer of the model, and that not all layers are excluded.

        Raises:
            ValueError: A pattern matches no layer, or no layer is left to prune.
        """
        names = list(dict.fromkeys(map(layer_of, weight_matrices(model))))
        for pattern in (*self.include, *self.floors, *self.ceilings):
            match_layers(pattern, names)
        excluded = {name for pattern in self.exclude for name in match_layers(pattern, names)}
        if excluded and len(excluded) == len(names):
            raise ValueError(
                f"limits exclude all {len(names)} layers of the model, so nothing can be pruned: name fewer in exclude"
            )

    def to_bounds(self, names: Sequence[str], widths: Mapping[str, int], prunable: Mapping[str, int]) -> Bounds:
        """Turn the limits into numbers for the layers ``names``.

        Args:
            names: All layers of the network.
            widths: The number of outputs (or weights) of each layer.
            prunable: How many of them can be removed.

        Returns:
            The numbers by layer.

        Raises:
            ValueError: A pattern matches no layer, a floor is larger than every layer that it matches, or a ceiling is
                on layers that cannot be pruned.
        """
        min_kept: dict[str, int] = {}
        max_kept: dict[str, int] = {}
        for pattern, amount in self.floors.items():
            layers = [n for n in match_layers(pattern, names) if n in widths]
            widest = max((widths[n] for n in layers), default=0)
            if layers and not isinstance(amount, float) and amount > widest:
                raise ValueError(
                    f"floors[{pattern!r}] is {amount}, and the widest layer that it matches has {widest}: ask for "
                    "less, or for a share"
                )
            for n in layers:
                min_kept[n] = max(min_kept.get(n, 0), _to_count(amount, widths[n], round_up=True))
        for pattern, amount in self.ceilings.items():
            layers = [n for n in match_layers(pattern, names) if prunable.get(n)]
            if not layers:
                raise ValueError(
                    f"ceilings[{pattern!r}] is on layers that can lose nothing: see Graph.report() for why"
                )
            for n in layers:
                max_kept[n] = min(max_kept.get(n, widths[n]), _to_count(amount, widths[n], round_up=False))
        for pattern in self.exclude:
            min_kept |= {n: widths[n] for n in match_layers(pattern, names) if n in widths}
        return Bounds(dict(widths), min_kept, max_kept, self.multiple)


@dataclass(frozen=True)
class Bounds:
    """Limits in numbers of outputs (or weights), by layer.

    Made by :func:`earlycrop.selection.nodes.node_bounds` and :func:`earlycrop.selection.weights.weight_bounds`.

    Args:
        widths: The size of every layer.
        min_kept: How many stay at least, of each layer with a floor.
        max_kept: How many stay at most, of each layer with a ceiling.
        multiple: See :class:`Limits`.
    """

    widths: Mapping[str, int]
    min_kept: Mapping[str, int]
    max_kept: Mapping[str, int]
    multiple: int = 1

    def part(self, share: float) -> Bounds:
        """Return the bounds of a round: ceilings come down step by step with the target.

        Args:
            share: The sparsity of the round, as a share of the last round's.

        Returns:
            The bounds of that round.
        """
        return replace(
            self, max_kept={n: self.widths[n] - int((self.widths[n] - m) * share) for n, m in self.max_kept.items()}
        )

    def make_conflict_error(self, layer: str, protected: int) -> ValueError:
        """Return the error for a layer of which floors protect more than its ceiling allows.

        Args:
            layer: The layer.
            protected: How many of its outputs (or weights) floors protect.

        Returns:
            The error to raise.
        """
        return ValueError(
            f"of layer '{layer}' at most {self.max_kept[layer]} of {self.widths[layer]} are to stay, and floors or "
            f"exclude hold {protected}: raise its ceiling, or lower the floors"
        )


NO_LIMITS = Limits()
"""No limits."""
NO_BOUNDS = Bounds({}, {}, {})
"""No limits, in numbers."""


def _to_count(amount: Amount, width: int, round_up: bool) -> int:
    if not isinstance(amount, float):
        return min(amount, width)
    exact = Fraction(repr(float(amount))) * width  # the share as it is written in decimals
    return -int(-exact // 1) if round_up else max(1, int(exact))


def match_layers(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the layers that a pattern matches.

    Args:
        pattern: A pattern, as :class:`Limits` takes it.
        names: The layers of the network.

    Raises:
        ValueError: There is none.
    """
    layers = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
    if not layers:
        near = ", ".join(f"'{n}'" for n in get_close_matches(pattern, names, n=3, cutoff=0.0))
        raise ValueError(f"no layer with a weight matrix matches '{pattern}': the nearest are {near}")
    return layers
