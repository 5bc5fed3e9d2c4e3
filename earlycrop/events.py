"""The request for a pruning, and the event that reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast, get_args

from torch import nn

from earlycrop.scoring.criteria import Criterion, Gate, Statistics
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.selection.targets import MEASURES, max_remaining
from earlycrop.surgery.masks import Masks
from earlycrop.utils.parameters import norms_are_fresh
from earlycrop.utils.validation import describe_unknown

GateName = Literal["auto", "rows", "norms", "columns"]
GATES: tuple[str, ...] = get_args(GateName)
STATISTICS: tuple[str, ...] = get_args(Statistics)
MOST_CHANGED = 5
"""How many layers ``print(event)`` names."""


@dataclass(frozen=True)
class PruningRequest:
    """What to prune.

    Args:
        criterion: Ranks the weights or nodes.
        structured: Whether nodes are cut out, or single weights are zeroed.
        targets: The sparsity after each round.
        of: What the sparsity is a share of: ``"weights"``, ``"nodes"``, ``"macs"``, ``"bytes"`` or ``"time"``.
        gate: Where the gate of a node stands. ``"rows"`` sums its score over the rows that produce it, which is the
            paper's definition. ``"norms"`` sums over the scales and shifts of its batch norms, ``"columns"`` over the
            columns that consume it. ``"auto"`` uses the criterion's default.
        limits: Floors, ceilings, layers to leave alone, multiples.
        shuffled: Remove as many units of each layer as were selected, but at random. This control tells whether a
            method selects weights, or only how many of which layer.
        statistics: What batch norms use while scores are computed: ``"running"`` statistics or those of the
            ``"batch"``. ``"auto"`` takes the batch's, with two exceptions. Gates on rows take running ones, as
            normalising by batch statistics would cancel them. Single weights take running ones, unless the batch norms
            are as they were made (mean 0, variance 1), or the criterion's authors take the batch's.
        early_batches: The share of the batches that all rounds but the last are scored on, at least one batch.

    Raises:
        ValueError: A value is unknown or out of its range.
    """

    criterion: Criterion
    structured: bool
    targets: Sequence[float]
    of: str = "weights"
    gate: str = "auto"
    limits: Limits = NO_LIMITS
    shuffled: bool = False
    statistics: str = "auto"
    early_batches: float = 1.0

    def __post_init__(self) -> None:
        for sparsity in self.targets:
            max_remaining(1, sparsity)
        if not self.targets or list(self.targets) != sorted(self.targets):
            raise ValueError(f"the targets of the rounds must rise, and are {list(self.targets)}")
        if self.of not in MEASURES:
            raise ValueError(describe_unknown("measure", self.of, MEASURES) + ", for of")
        if self.of != "weights" and not self.structured:
            raise ValueError(
                f"an unstructured method removes a share of the weights, not of the {self.of}: take a structured method"
            )
        if self.limits.multiple > 1 and not self.structured:
            raise ValueError("multiple rounds channel counts, which single weights do not change: leave it at 1")
        if self.gate not in GATES:
            raise ValueError(describe_unknown("gate", self.gate, GATES))
        if self.statistics not in STATISTICS:
            raise ValueError(describe_unknown("setting of statistics", self.statistics, STATISTICS))

    def batches_of_round(self, number: int, batches: list[Any]) -> list[Any]:
        """Return the batches that round ``number``, counted from 0, is scored on."""
        if number == len(self.targets) - 1:
            return batches
        return batches[: max(1, round(self.early_batches * len(batches)))]

    @property
    def gate_position(self) -> Gate:
        """The gate position; ``"auto"`` is resolved to the criterion's."""
        return self.criterion.gate if self.gate == "auto" else cast(Gate, self.gate)

    def uses_batch_statistics(self, network: nn.Module) -> bool:
        """Return whether batch norms use the batch's statistics while this network is scored."""
        if self.statistics != "auto":
            return self.statistics == "batch"
        if self.structured:
            return self.gate_position != "rows"
        return self.criterion.batch_statistics or norms_are_fresh(network)


@dataclass(frozen=True)
class Event:
    """A pruning that took place. ``print(event)`` shows it in a few lines.

    Attributes:
        reason: Why the model was pruned at this time.
        epoch: After how many epochs.
        of: What the target is a share of.
        asked: The sparsity that was asked for.
        achieved: The sparsity that was achieved.
        dense: The size before, in the unit of ``of``: weights, nodes, MACs of a run on the first batch, bytes, or
            microseconds of a training step on that batch.
        left: The size after.
        costs: Weights, nodes and MACs before and after, by name.
        weight_sparsity: The share of the weights that is gone.
        node_sparsity: The share of the nodes that is gone.
        rounds: How many rounds it took.
        floors: Layers in which a floor, or a multiple, kept units that the ranking would have removed.
        uncertified: Tensors of layers that were not cut, because their cut did not pass its certificate.
        difference: The largest certificate of the cuts: ``max |small - masked| / max |masked|`` over the outputs. None
            if nothing was cut.
        batches: On how many batches the scores were computed.
        seconds: How long it took.
        limits: The limits that were asked for.
        layers: Outputs (or weights) of each layer before and after.
        notes: What else a reader must know, a sentence each.
        masks: Holds the removed weights at zero after an unstructured pruning.
    """

    reason: str
    epoch: int
    of: str
    asked: float
    achieved: float
    dense: int
    left: int
    costs: Mapping[str, tuple[int, int]]
    weight_sparsity: float
    node_sparsity: float
    rounds: int
    floors: tuple[str, ...]
    uncertified: tuple[str, ...]
    difference: float | None
    batches: int
    seconds: float
    limits: Limits = NO_LIMITS
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    masks: Masks | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        lines = [f"pruned at epoch {self.epoch}: {self.reason}"]
        labels = {"macs": "MACs", "time": "µs/step"}
        lines += [f"  {labels.get(name, name):8} {_change(*counts)}" for name, counts in self.costs.items()]
        if self.of not in self.costs:
            lines.append(f"  {labels.get(self.of, self.of):8} {_change(self.dense, self.left)}")
        lines.append(f"  target   {self.asked:.2%} of the {self.of}, achieved {self.achieved:.2%}")
        lines += [f"  layer {name}: {_change(*counts)}" for name, counts in self._most_changed()]
        if self.uncertified:
            lines.append(f"  not cut, as the certificate failed: {', '.join(self.uncertified)}")
        lines += [f"  note: {note}" for note in self.notes]
        if self.difference is not None:
            lines.append(f"  certificate: differs from the masked dense network by at most {self.difference:.1e}")
        lines.append(f"  rounds: {self.rounds}, batches: {self.batches}, seconds: {self.seconds:.1f}")
        return "\n".join(lines)

    def _most_changed(self) -> list[tuple[str, tuple[int, int]]]:
        changed = [(name, counts) for name, counts in self.layers.items() if counts[0] != counts[1]]
        return sorted(changed, key=lambda item: item[1][1] / item[1][0])[:MOST_CHANGED]

    def record(self) -> dict[str, Any]:
        """Return the event as plain numbers, strings, lists and dicts. ``uncertified`` is called ``whole`` there."""
        plain = asdict(replace(self, masks=None))
        del plain["masks"]
        for name in ("exclude", "include"):
            plain["limits"][name] = list(plain["limits"][name])
        for name in ("layers", "costs"):
            plain[name] = {key: list(counts) for key, counts in plain[name].items()}
        for name in ("floors", "uncertified", "notes"):
            plain[name] = list(plain[name])
        plain["whole"] = plain.pop("uncertified")
        return plain

    @classmethod
    def from_record(cls, record: Mapping[str, Any], masks: Masks | None) -> Event:
        """Return the event of a ``record()``, with these masks."""
        fields = {**record, "uncertified": record["whole"], "limits": Limits(**record["limits"]), "masks": masks}
        del fields["whole"]
        for name in ("layers", "costs"):
            fields[name] = {key: (before, after) for key, (before, after) in record[name].items()}
        for name in ("floors", "uncertified", "notes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def _change(before: int, after: int) -> str:
    """Return two numbers and the change in per cent."""
    return f"{before:,} -> {after:,}" + (f" ({after / before - 1:+.1%})" if before else "")
