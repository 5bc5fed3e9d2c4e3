"""Networks with a ``save_pretrained`` of their own, whose configuration goes on describing the dense network."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from earlycrop._modules import walk
from earlycrop.saving import FOLDER, save


def keep_loadable(network: nn.Module) -> None:
    """From now on ``save_pretrained`` also writes what ``earlycrop.load`` reads, and says so."""
    for _, m in walk(network):
        if callable(getattr(type(m), "save_pretrained", None)) and "save_pretrained" not in vars(m):
            m.__dict__["save_pretrained"] = partial(_saved_beside, m)


def _saved_beside(module: Any, folder: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
    result = type(module).save_pretrained(module, folder, *arguments, **options)
    beside = Path(folder) / FOLDER
    save(module, beside)
    warnings.warn(
        f"this {type(module).__name__} was shrunk, and from_pretrained will refuse it, as its configuration describes "
        f"the dense network: make a fresh one from the configuration, and earlycrop.load('{beside}', fresh)",
        stacklevel=2,
    )
    return result
