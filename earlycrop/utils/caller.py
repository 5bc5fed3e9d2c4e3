"""Warnings that point at the line of the user's code that called the library."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str) -> None:
    """Warn, and name the line outside this library that called it: the one below its outermost frame.

    Args:
        message: The warning.
    """
    frame, level, outermost = sys._getframe(), 1, 1
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            outermost = level
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(message, stacklevel=outermost + 1)
