"""The options that every task has, in one frozen dataclass, and which of them a method ignores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from earlycrop import CRITERIA, METHODS
from earlycrop.utils.validation import describe_unknown
from tasks.runner.errors import require

Schedule = Literal["keep", "restart", "after-cut", "constant"]


class Bounds(NamedTuple):
    """What the number of an option, or each number of a tuple, must be: a part of its type, as in :data:`Count`."""

    minimum: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    maximum: float = math.inf

    def hold(self, number: float) -> bool:
        return self.minimum <= number <= self.maximum and self.above < number < self.below

    def __str__(self) -> str:
        forms = ("{:g} or more", "above {:g}", "below {:g}", "at most {:g}")
        return " and ".join(form.format(limit) for form, limit in zip(forms, self, strict=True) if math.isfinite(limit))


Count = Annotated[int, Bounds(minimum=1)]
Counts = Annotated[tuple[int, ...], Bounds(minimum=1)]
CountOr0 = Annotated[int, Bounds(minimum=0)]
Share = Annotated[float, Bounds(minimum=0, below=1)]
AtLeast0 = Annotated[float, Bounds(minimum=0)]
Positive = Annotated[float, Bounds(above=0)]
Clip = Annotated[float | None, Bounds(above=0)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A run's configuration; the field docstrings are the command line's help."""

    preset: str = "default"
    """Named setting that the other options start from."""
    method: str = "earlycrop-s"
    """Pruning method, a row of earlycrop.METHODS; "dense" prunes nothing."""
    sparsity: float = 0.9
    """Share to remove, between 0 and 1, of what --of names. Ignored by "dense"."""
    of: str = "weights"
    """What the sparsity is a share of: weights, nodes, macs, bytes or time (of a training step, measured here)."""
    exclude: tuple[str, ...] = ()
    """Layers to leave alone, by name or pattern, such as actor or "trunk.*"."""
    floors: dict[str, int | float] = field(default_factory=dict)
    """Least that stays of a layer's outputs (or weights): pattern and number, or share with a decimal point."""
    ceilings: dict[str, int | float] = field(default_factory=dict)
    """Most that stays, as for --floors."""
    multiple: int = 1
    """What the channels that stay are a multiple of; 8 suits tensor cores."""
    rounds: int = 5
    """Rounds of the iterative methods (cropit, earlycrop, gatedecorators); the others know their own number."""
    trigger: str = ""
    """When to prune, in place of the method's own: a row of earlycrop.TRIGGERS, or the number of the epoch."""
    shuffled: bool = False
    """A control: as many go of each layer as the method chooses, but at random."""
    criterion: str = ""
    """What a unit is worth, in place of the method's own: a row of earlycrop.CRITERIA."""
    gate: str = "auto"
    """Where a node is scored: rows (that produce it), norms (its batch norms), columns (that consume it) or auto."""
    statistics: str = "auto"
    """What batch norms use while scores are taken: running, batch or auto."""
    as_authors: bool = False
    """Score as the paper's authors' code does: gates at rows, running statistics, the gradient flow of the whole loss
    and of matrices alone, and its numbers of rounds (7, but 1 for earlycrop-s)."""
    early_batches: float = 1.0
    """Share of the scoring batches that all rounds of a pruning but the last use."""
    rewind: float = 0.05
    """Share of the epochs that ltr rewinds to; 0 is the initialisation."""
    optimizer_state: Literal["keep", "reset"] = "keep"
    """Whether the optimizer goes on with its state after a pruning or starts afresh."""
    schedule: Schedule = "keep"
    """How the learning rate goes: its schedule runs over all epochs (keep), starts anew over those that are left after
    a pruning (restart), is held until the pruning and runs over those that are left (after-cut), or is held (constant),
    as the trunk of runs that are cut at several epochs needs it."""
    watch: bool = True
    """Whether all that triggers look at is measured after every epoch, up to a pruning, whatever prunes."""
    kernel: bool = False
    """Whether the turn of the neural tangent kernel is measured as well, on a scoring batch: a backward pass each for
    up to 64 outputs, every epoch up to a pruning."""
    epochs: Count = 30
    """Budget of training epochs, those before the cut included."""
    seed: CountOr0 = 0
    """Seeds initialisation, data and everything else that is random."""
    device: str = "auto"
    """Torch device, or "auto": the machine's GPU where there is one, else the CPU. Apple's must be named: "mps"."""
    prune_on: str = ""
    """Device that prunes before training, in place of the training device: cpu where only what is left fits that."""
    deterministic: bool = False
    """Whether the same numbers come out of every run on a GPU, for some of its speed."""
    keep: tuple[int, ...] = ()
    """Epochs whose checkpoints are kept, for other runs to branch off there."""
    branch_from: Path | None = None
    """Folder of a dense run: start from what it kept of the epoch that --trigger names, as if trained up to there."""
    country: str = ""
    """Country by whose mix of electricity the training's emissions are measured: an ISO code of three letters, such as
    DEU. Empty measures none. Needs codecarbon, the extra emissions."""
    record: bool = False
    """Whether to draw what was learned (an episode, predictions) into the run's folder."""
    fresh: bool = False
    """Whether to run again what is finished or begun. The old folder gets another name."""
    runs: Path = Path("runs")
    """Folder that holds one folder a run."""


AnyOptions = TypeVar("AnyOptions", bound=Options)
LATER: dict[str, Any] = {
    **{name: getattr(Options(), name) for name in (
        "exclude", "floors", "ceilings", "multiple", "trigger", "shuffled", "criterion", "gate", "statistics", "rewind",
        "early_batches",
        "as_authors", "optimizer_state", "schedule", "watch", "kernel", "prune_on", "deterministic",
    )},
    "normalise": False, "last_entropy": None, "workers": 1, "epochs_per_pass": 1,
    "include": ("*embed*",), "normalise_observations": False,
}  # fmt: skip
"""Options that came after the first records, and what those were made with: no part of a configuration that has just
that, so that ids stay."""
ASIDE = ("runs", "fresh", "record", "keep", "branch_from", "country")
"""Options that change nothing of what is computed."""
VARIANTS = (
    "criterion", "gate", "statistics", "as_authors", "trigger", "shuffled", "rewind", "optimizer_state", "schedule",
    "early_batches",
)  # fmt: skip
"""Options that make of a method a variant of it."""
PRUNING = (
    *("sparsity", "of", "exclude", "include", "floors", "ceilings", "multiple", "rounds", "trigger", "shuffled"),
    *("criterion", "gate", "statistics", "as_authors", "rewind", "optimizer_state", "schedule", "early_batches"),
)
"""Options that say how to prune."""


def ignored_options(method: str, criterion: str = "") -> frozenset[str]:
    """Return the names of the options that change nothing of a run; an unknown method ignores none.

    Args:
        criterion: The name of the criterion in place of the method's own, or nothing.
    """
    row = METHODS.get(method)
    if row is None:
        return frozenset()
    if row.criterion is None:
        return frozenset({*PRUNING, "prune_on"})
    effect = CRITERIA.get(criterion, row.criterion)
    iterates = row.procedure == "once" and row.schedule(0.9, 2) != row.schedule(0.9, 3)
    uses = {
        "rounds": iterates or row.procedure == "tick-tock",
        "early_batches": iterates and effect.order > 0,
        "rewind": row.procedure == "rewind",
        "schedule": row.procedure != "rewind",  # which trains by its own
        "of": row.structured,
        "multiple": row.structured,
        "include": not row.structured,
        "gate": row.structured and effect.effect is not None and row.procedure != "tick-tock",
        "statistics": effect.order > 0,
        "as_authors": effect.order > 0,
    }
    return frozenset(name for name, used in uses.items() if not used)


def _ignored(method: str, criterion: str, schedule: str) -> frozenset[str]:
    """Return what a run ignores. A constant learning rate makes another training of any method."""
    return ignored_options(method, criterion) - ({"schedule"} if schedule == "constant" else set())


def without_ignored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration without what its method ignores."""
    ignored = _ignored(config.get("method", ""), config.get("criterion", ""), config.get("schedule", ""))
    return {name: value for name, value in config.items() if name not in ignored}


def with_defaults(options: AnyOptions) -> AnyOptions:
    """Return the options with everything that the method ignores at its default."""
    defaults = Options()
    ignored = _ignored(options.method, options.criterion, options.schedule)
    return replace(options, **{name: getattr(defaults, name) for name in ignored if hasattr(defaults, name)})


def config_fault(config: dict[str, Any]) -> str | None:
    """Return what is wrong with a configuration that was read from a file: an option of another type; or None."""
    for name, default in vars(Options()).items():
        kind = (int, float) if isinstance(default, float) else type(default)
        value = config.get(name, default)
        is_odd = isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, kind)
        if isinstance(default, str | int | float) and is_odd:
            return f"the option {name} is {value!r}, such as {default!r} is meant"
    if not isinstance(config.get("data", ""), str | None):
        return f"the option data is {config['data']!r}, a text is meant"
    return None


def check_values(options: Options) -> None:
    """Raise a ValueError for an option that is outside its :class:`Bounds`, none of its choices, or has a NUL in it.

    Those of base classes count, too, where a task has given an option another default.
    """
    hints = [hint for kind in type(options).__mro__ for hint in get_type_hints(kind, include_extras=True).items()]
    for name, hint in hints:
        value = getattr(options, name)
        require("\0" not in str(value), f"{name} has a NUL character, which no path may have: choose another one")
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(describe_unknown(name, value, get_args(hint)))
        for bounds in getattr(hint, "__metadata__", ()):
            numbers = value if isinstance(value, tuple) else (value,)
            fits = bool(numbers) and all(n is None or bounds.hold(n) for n in numbers)
            require(fits, f"{name} must be {bounds}, not {value}")
