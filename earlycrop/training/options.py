"""Settings of a pruner that most trainings leave as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from earlycrop.events import GateName, MemoryFormat
from earlycrop.scoring.criteria import Statistics
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.validation import check_number, check_type, describe


@dataclass(frozen=True, kw_only=True)
class PrunerOptions:
    """Settings of a :class:`earlycrop.Pruner` that most trainings leave as they are.

    Args:
        gate: Where the gate of a node stands; see :class:`earlycrop.events.PruningRequest`.
        statistics: What batch norms use while scores are computed; see the same.
        shuffled: A control. Remove as many units of each layer as the method selects, but at random.
        early_batches: The share of the batches that all rounds of a pruning but the last are scored on. A smaller one
            makes the cut faster: with 0.4, five rounds on five batches read 13 of them, and not 25.
        penalty: The weight of the L1 penalty on batch norm scales, in place of the method's own.
        rewind: The share of the epochs that ``ltr`` rewinds to.
        rewind_with: What ``ltr`` rewinds together with the model and its optimizers: anything with ``state_dict`` and
            ``load_state_dict``, such as a scheduler.
        optimizer_state: ``"reset"`` clears the state of the optimizers after a pruning, ``"keep"`` keeps it.
        log_triggers: After every epoch, log the values that all triggers use, whichever trigger prunes. This keeps two
            copies of the weights and five masks of nodes, and reads a batch after the first epoch.
        ntk_probe: A small batch. After every epoch, log as ``kernel_turn`` how far the neural tangent kernel on it has
            turned; see :class:`earlycrop.triggers.ntk.NTKDistance`.
        group: The ``torch.distributed`` process group that trains the model. Needed only if you average gradients
            yourself; that of ``DistributedDataParallel`` is detected.
        memory_format: ``"fastest"`` measures a training step after nodes were cut, and puts the channels of
            convolutions last if that is faster; the notes of the event say so. The state of the pruner holds the
            choice, and a run that resumes does not measure again.

    Raises:
        TypeError: ``early_batches``, ``penalty`` or ``rewind`` is not a number, or an entry of ``rewind_with`` cannot
            be rewound.
        ValueError: A value is unknown or out of its range.
    """

    gate: GateName = "auto"
    statistics: Statistics = "auto"
    shuffled: bool = False
    early_batches: float = 1.0
    penalty: float | None = None
    rewind: float = 0.05
    rewind_with: Sequence[Any] = ()
    optimizer_state: Literal["keep", "reset"] = "keep"
    log_triggers: bool = False
    ntk_probe: Any = None
    group: ProcessGroup = None
    memory_format: MemoryFormat = "keep"

    def __post_init__(self) -> None:
        if self.optimizer_state not in ("keep", "reset"):
            raise ValueError(f"optimizer_state must be 'keep' or 'reset', and is '{self.optimizer_state}'")
        for name in ("early_batches", "rewind", *(["penalty"] if self.penalty is not None else [])):
            check_number(name, getattr(self, name))
        if self.penalty is not None and not 0 <= self.penalty < inf:
            raise ValueError(f"penalty must be 0 or more, and is {self.penalty}")
        if not 0 < self.early_batches <= 1:
            raise ValueError(f"early_batches must be a share, above 0 and at most 1, and is {self.early_batches}")
        if not 0 <= self.rewind < 1:
            raise ValueError(f"rewind must be a share of the epochs, from 0 to below 1, and is {self.rewind}")
        check_type("rewind_with", self.rewind_with, Iterable, "give a list, such as [scheduler]")
        for part in self.rewind_with:
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise TypeError(
                    f"rewind_with cannot hold {describe(part)}: give what has state_dict and load_state_dict, such as "
                    "a scheduler"
                )


DEFAULT_OPTIONS = PrunerOptions()
