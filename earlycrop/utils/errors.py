"""Errors that this library raises."""

from __future__ import annotations


class EarlyCropError(RuntimeError):
    """Base class of the errors of this library."""


class FlowError(EarlyCropError):
    """The loss has no usable derivative with respect to a parameter, or scores cannot rank what to remove."""


class SavingError(EarlyCropError):
    """A file is missing, broken, or does not fit. The model is unchanged."""


class SurgeryError(EarlyCropError):
    """A cut was refused or undone. The model, EMA models and optimizers are unchanged."""


class TraceError(EarlyCropError):
    """The network could not be run on the example."""
