"""Whether a run that goes on finds the data that it was started with, which its configuration names and no more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor

DataFingerprint = Mapping[str, int | str]
"""What tells data from other data of the same name: sizes, and a digest of the rest."""


def digest(*parts: Tensor | np.ndarray | str) -> str:
    """A few letters that are others where anything is another."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return hasher.hexdigest()[:12]


def changes(before: DataFingerprint, now: DataFingerprint) -> str:
    """What is another than it was, in words; nothing where all is the same."""
    keys = [key for key in now if key in before and before[key] != now[key]]  # an older version knew less of them
    return ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in keys)
