"""The errors of this library."""

from __future__ import annotations


class SurgeryError(RuntimeError):
    """The cut was not made, or was taken back: model, copies and optimizers are as they were."""


class FlowError(RuntimeError):
    """The loss has no usable derivative at some parameter."""


class SavingError(RuntimeError):
    """A file is missing, broken, or not what it should be; nothing was changed."""


class TraceError(RuntimeError):
    """The network could not be run on the example."""
