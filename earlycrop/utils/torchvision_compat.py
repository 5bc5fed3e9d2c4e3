"""torchvision, also where its compiled operators do not load: a CPU torch beside a torchvision built for CUDA."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def load_torchvision(part: str = "torchvision") -> ModuleType:
    """Import torchvision, a module of it, or a library that imports it where it is installed, as transformers does.

    Its import registers fake implementations for its operators ``nms`` and ``qnms``, and fails where their schemas were
    never declared; where they cannot be loaded, that is done first. Networks and data sets work without them.
    """
    _declare_operators()
    return importlib.import_module(part)


def _declare_operators() -> None:
    """Load the operators as torchvision does; where that fails, declare the schemas that its import asks for."""
    global _library
    found = importlib.util.find_spec("torchvision")
    if _library is not None or found is None or found.origin is None:
        return
    for compiled in Path(found.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(compiled)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
