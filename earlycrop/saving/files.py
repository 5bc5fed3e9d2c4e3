"""Write and read safetensors files with a header, without pickle.

A file is written under a temporary name and then renamed, so that an interrupted write leaves the old file intact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.errors import SavingError

FOLDER = "earlycrop"
"""Subfolder for our file where another library writes a file of the same name (``save_pretrained``, a Trainer)."""
Header = dict[str, Any]
_FORMAT = "earlycrop 1"  # the metadata's only entry, which holds the header as JSON
_COMPLEX = "complex"
"""Entry of the header with the names of complex tensors that are stored as pairs of real numbers."""


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Write tensors and a header, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # safetensors refuses tensors that share memory, as an expanded buffer or two views do, so copy each of them.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    pairs = [name for name, t in copies.items() if t.is_complex() and t.dtype != torch.complex64]
    copies |= {name: torch.view_as_real(copies[name]) for name in pairs}  # safetensors has no complex128
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors makes files that only their owner can read
        # A single entry: safetensors stores several in an order that changes from process to process.
        save_file(copies, temporary, metadata={_FORMAT: json.dumps({**header, _COMPLEX: pairs})})
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except KeyError as error:  # safetensors raises it for a type that it does not know
        raise TypeError(f"a file cannot hold tensors of type {error}: convert them first") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_file(path: Path) -> tuple[dict[str, Tensor], Header]:
    """Return the tensors by name, and the header."""
    subfolder = path.parent / FOLDER
    advice = f"load '{subfolder}'" if (subfolder / path.name).exists() else ""
    try:
        with outside_inference_mode(), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Early files have two entries.
            plan = metadata["plan"] if metadata.get("format") == _FORMAT else metadata.get(_FORMAT)
            if plan is None:
                alternative = f"{advice}, which was" if advice else "its weights load with safetensors itself"
                raise SavingError(f"{path} was not written by earlycrop: {alternative}")
            # Copy each tensor: on memory that is not aligned as torch's own is, kernels sum in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            header = json.loads(plan)
            tensors |= {name: torch.view_as_complex(tensors[name]) for name in header.get(_COMPLEX, ())}
            return tensors, header
    except FileNotFoundError as error:
        raise SavingError(f"there is no file {path}" + (f": {advice}" if advice else "")) from error
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise SavingError(f"{path} is broken ({error}): it was cut short or changed; take an older copy") from error
