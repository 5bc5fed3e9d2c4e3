"""Run float32 operations in float32: switch TF32 and bfloat16 off, whichever of torch's two interfaces set them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

from earlycrop.utils.process_lock import PROCESS_LOCK


@contextmanager
def full_float32_precision() -> Iterator[None]:
    """Compute matrix products, convolutions and recurrent cells in full float32 precision within the context.

    On exit, both of torch's interfaces read as before: ``fp32_precision``, which backends and operations have, and the
    older ``allow_tf32`` and ``torch.set_float32_matmul_precision``.
    """
    with PROCESS_LOCK, ExitStack() as stack:
        older = _read_older_settings()
        operations = _operations()
        for operation in operations:
            stack.callback(setattr, operation, "fp32_precision", _own_precision(operation))
        for set_value, value, full in older:
            stack.callback(set_value, value)
            set_value(full)
        for operation in operations:
            operation.fp32_precision = "ieee"
        yield


def _operations() -> list[Any]:
    """Return torch's objects with the setting of a single operation."""
    backends: Any = torch.backends  # mypy does not know what they make as they are imported
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return [backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]


def _own_precision(operation: Any) -> str:
    """Return an operation's own setting, ``"none"`` where it takes that of its backend, and leave it at ``"none"``."""
    precision: str = operation.fp32_precision
    operation.fp32_precision = "none"
    return "none" if operation.fp32_precision == precision else precision


def _read_older_settings() -> list[tuple[Callable[[Any], None], Any, Any]]:
    """Return the settings of the older interface: how to set each, its value, and that of full precision.

    torch refuses to read those that the present interface has overruled. They have no effect, and are left alone.
    """
    settings: list[tuple[Callable[[Any], None], Any, Any]] = []
    cudnn: Any = torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch advise against the older interface
        with suppress(RuntimeError):
            settings.append((torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "highest"))
        with suppress(RuntimeError):
            settings.append((partial(setattr, cudnn, "allow_tf32"), cudnn.allow_tf32, False))
    return settings
