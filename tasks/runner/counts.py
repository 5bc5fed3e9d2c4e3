"""How large a network is."""

from __future__ import annotations

from torch import nn

from earlycrop import measure


def count_nonzero_parameters(model: nn.Module) -> int:
    """Parameters that are left: entries of weight matrices that are zero do not count."""
    nonzero, every = measure.weight_counts(model)
    return measure.parameters(model) - every + nonzero
