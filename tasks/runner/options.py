"""The options that every task has: one frozen dataclass is a run's whole configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.runner.errors import require

Schedule = Literal["keep", "restart", "after-cut", "constant"]


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
    epochs: int = 30
    """Budget of training epochs, those before the cut included."""
    seed: int = 0
    """Seeds initialisation, data and everything else that is random."""
    device: str = "auto"
    """Torch device, or "auto": the first CUDA device where there is one, else the CPU."""
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


LATER: dict[str, Any] = {
    **{name: getattr(Options(), name) for name in (
        "exclude", "floors", "ceilings", "multiple", "trigger", "shuffled", "criterion", "gate", "statistics", "rewind",
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
)  # fmt: skip
"""Options that make of a method a variant of it."""


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


def require_range(options: Options, low: float, *names: str, below: float = math.inf) -> None:
    """Raise a ValueError for an option of these names that is not a number from ``low`` on, and below ``below``."""
    limit = "" if below == math.inf else f" and below {below:g}"
    for name in names:
        number = getattr(options, name)
        require(low <= number < below, f"{name} must be {low:g} or more{limit}, not {number}")


def require_positive(options: Options, *names: str) -> None:
    """Raise a ValueError for an option of these names that is neither None nor a number above 0."""
    for name in names:
        number = getattr(options, name)
        require(number is None or 0 < number < math.inf, f"{name} must be a number above 0, not {number}")
