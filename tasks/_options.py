"""The options that every task has: one frozen dataclass is a run's whole configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


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
    """Rounds of the iterative methods (cropit, earlycrop); the others take one."""
    epochs: int = 30
    """Budget of training epochs, those before the cut included."""
    seed: int = 0
    """Seeds initialisation, data and everything else that is random."""
    device: str = "auto"
    """Torch device, or "auto": the first CUDA device where there is one, else the CPU."""
    runs: Path = Path("runs")
    """Folder that holds one folder a run."""


LATER = ("exclude", "floors", "ceilings", "multiple")
"""Options that came after the first records: no part of a configuration that leaves them alone, so that ids stay."""
