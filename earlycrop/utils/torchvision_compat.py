"""Import torchvision even if its compiled operators do not load (a CPU torch beside a torchvision built for CUDA)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def load_torchvision(part: str = "torchvision") -> ModuleType:
    """Import torchvision, or a module that imports it.

    The import of torchvision registers fake implementations of its operators ``nms`` and ``qnms``, and fails if their
    schemas are not declared. If the operators cannot be loaded, the schemas are declared first. Networks and data sets
    work without the operators.

    Args:
        part: The module to import: torchvision, a submodule, or a library that imports it (transformers does).

    Returns:
        The module.

    Raises:
        ImportError: The module is not installed, or its import fails.
    """
    _declare_operators()
    return importlib.import_module(part)


def _declare_operators() -> None:
    """Load the operators as torchvision does, or else declare the schemas that its import needs."""
    global _library
    spec = importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or spec.origin is None:
        return
    for library_file in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(library_file)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
