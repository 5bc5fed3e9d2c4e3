"""The errors of this library."""

from __future__ import annotations


class EarlyCropError(RuntimeError):
    """The base class of the errors of this library."""


class SurgeryError(EarlyCropError):
    """The cut was not made, or was taken back: model, copies and optimizers are as they were."""


class FlowError(EarlyCropError):
    """The loss has no usable derivative at some parameter."""


class SavingError(EarlyCropError):
    """A file is missing, broken, or not what it should be; nothing was changed."""


class TraceError(EarlyCropError):
    """The network could not be run on the example."""
