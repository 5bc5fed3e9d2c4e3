"""What is asked of a pruning, and what took place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from earlycrop.scoring.criteria import Criterion, Gate
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.selection.targets import MEASURES, max_remaining
from earlycrop.surgery.masks import Masks

GATES = ("auto", "rows", "norms", "columns")
STATISTICS = ("auto", "running", "batch")


@dataclass(frozen=True)
class PruningRequest:
    """What to prune: the sparsity of each round's end, in ``of``, by nodes or single weights, ranked by ``criterion``,
    within ``limits``.

    gate: "rows" sums a node's score over the rows that produce it, the paper's definition; "norms" over the scales and
    shifts of its batch norms; "columns" over the columns that consume it; "auto" is where the criterion has its gate.
    statistics: batch norms use "running" ones or those of the "batch" while the scores are taken; "auto" takes the
    batch's, but running ones with rows, before which a norm of the batch would divide the gate out, and for single
    weights. shuffled: of each layer go as many as are chosen, but at random: a control that tells whether a method
    chooses weights, or only how many of which layer.

    Raises:
        ValueError: a value is out of its range.
    """

    criterion: Criterion
    structured: bool
    targets: Sequence[float]
    of: str = "weights"
    gate: str = "auto"
    limits: Limits = NO_LIMITS
    shuffled: bool = False
    statistics: str = "auto"

    def __post_init__(self) -> None:
        for sparsity in self.targets:
            max_remaining(1, sparsity)
        if self.of not in MEASURES:
            raise ValueError(f"there is no measure '{self.of}': a sparsity can be a share of {', '.join(MEASURES)}")
        if self.of != "weights" and not self.structured:
            raise ValueError(f"single weights have a sparsity of weights, not of {self.of}: take a structured method")
        if self.limits.multiple > 1 and not self.structured:
            raise ValueError("multiple rounds channel counts, which single weights do not change: leave it at 1")
        if self.gate not in GATES:
            raise ValueError(f"there is no gate '{self.gate}': take one of {', '.join(GATES)}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"there are no statistics '{self.statistics}': take one of {', '.join(STATISTICS)}")

    @property
    def where(self) -> Gate:
        """Where gates stand."""
        match self.gate:
            case "rows" | "norms" | "columns":
                return self.gate
        return self.criterion.gate

    @property
    def of_batch(self) -> bool:
        """Whether batch norms use the batch's statistics."""
        return self.statistics == "batch" or (self.statistics == "auto" and self.structured and self.where != "rows")


@dataclass(frozen=True)
class Event:
    """A pruning that took place.

    reason: why now. epoch: after how many epochs. of, asked, achieved: the sparsity in what was targeted. dense, left:
    the same in units (weights, nodes, MACs of a run on the first batch, bytes, or microseconds of a training step on
    it). weight_sparsity, node_sparsity: shares of the network's before. rounds: how many. floors: layers where a floor
    (the last node or weight, one of the limits, or a multiple) kept what the ranking had go. whole: tensors of layers
    whose cut could not be certified. difference: the worst certificate of the cuts, None where nothing was cut.
    batches: how many the scores were computed on. seconds: what it took. limits: those asked for. layers: outputs (or
    weights) of each layer before and after. notes: what else a reader must know, a sentence each. masks: what holds
    removed weights at zero, after an unstructured pruning.
    """

    reason: str
    epoch: int
    of: str
    asked: float
    achieved: float
    dense: int
    left: int
    weight_sparsity: float
    node_sparsity: float
    rounds: int
    floors: tuple[str, ...]
    whole: tuple[str, ...]
    difference: float | None
    batches: int
    seconds: float
    limits: Limits = NO_LIMITS
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    masks: Masks | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """The event as plain numbers, strings, lists and dicts."""
        plain = asdict(replace(self, masks=None))
        del plain["masks"]
        plain["limits"]["exclude"] = list(self.limits.exclude)
        plain["layers"] = {name: list(counts) for name, counts in self.layers.items()}
        return {**plain, "floors": list(self.floors), "whole": list(self.whole), "notes": list(self.notes)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], masks: Masks | None) -> Event:
        """The event that a record was made of."""
        plain = {**record, **{name: tuple(record[name]) for name in ("floors", "whole", "notes")}}
        layers = {name: (before, after) for name, (before, after) in record["layers"].items()}
        return cls(**{**plain, "limits": Limits(**record["limits"]), "layers": layers, "masks": masks})
