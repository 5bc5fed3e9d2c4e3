"""Make ``save_pretrained`` of a shrunk model write what ``earlycrop.load`` reads."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import nn

from earlycrop.saving.files import FOLDER
from earlycrop.saving.models import save
from earlycrop.utils.caller import warn

_warned_of: WeakSet[nn.Module] = WeakSet()


def patch_save_pretrained(network: nn.Module) -> None:
    """Make ``save_pretrained`` also write the files that ``earlycrop.load`` reads, and warn about it.

    Args:
        network: A network that was shrunk. Its submodules with a ``save_pretrained`` are changed in place.
    """
    for m in network.modules():
        if callable(getattr(type(m), "save_pretrained", None)) and "save_pretrained" not in vars(m):
            m.__dict__["save_pretrained"] = partial(_save_pretrained_and_plan, m)


def _save_pretrained_and_plan(module: Any, folder: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    result = type(module).save_pretrained(module, folder, *args, **kwargs)
    subfolder = save(module, Path(folder) / FOLDER).parent
    if module in _warned_of:  # a Trainer saves it again and again
        return result
    _warned_of.add(module)
    warn(
        f"this {type(module).__name__} was shrunk, and from_pretrained will refuse it, because its configuration "
        f"describes the dense network: make a fresh one from the configuration, then call "
        f"earlycrop.load('{subfolder}', fresh)",
    )
    return result
