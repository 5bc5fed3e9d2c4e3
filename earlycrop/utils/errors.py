"""Errors that this library raises, and those that it passes on."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "could not create a memory object",
)
"""Parts of the messages of the plain RuntimeErrors that torch raises where memory runs out."""


class EarlyCropError(RuntimeError):
    """Base class of the errors of this library."""


class FlowError(EarlyCropError):
    """The loss has no usable derivative with respect to a parameter, or scores cannot rank what to remove."""


class NotEnoughMemoryError(EarlyCropError, MemoryError):
    """Scoring needs more memory than is free. Nothing was changed."""


class SavingError(EarlyCropError):
    """A file is missing, broken, or does not fit. The model is unchanged."""


class SurgeryError(EarlyCropError):
    """A cut was refused or undone. The model, EMA models and optimizers are unchanged."""


class TraceError(EarlyCropError):
    """The network could not be run on the example."""


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise an error again if it says that memory ran out or the device failed: neither tells about the network.

    Args:
        error: What the network, or a loss, has raised.
    """
    is_kind = isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError)
    if is_kind or (isinstance(error, RuntimeError) and any(part in str(error) for part in _OUT_OF_MEMORY)):
        raise error
