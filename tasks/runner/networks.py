"""A network that is looked at and not trained: its device, its size, and its evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from earlycrop import measure


def model_device(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def count_nonzero_parameters(model: nn.Module) -> int:
    """Parameters that are left: entries of weight matrices that are zero do not count."""
    nonzero, every = measure.weight_counts(model)
    return measure.parameters(model) - every + nonzero


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """The model in evaluation mode, without gradients, and afterwards in the mode it was in; gives its device."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model_device(model)
    finally:
        model.train(mode)
