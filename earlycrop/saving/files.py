"""Write and read safetensors files with a header, without pickle.

A file is written under a temporary name and then renamed, so that an interrupted write leaves the old file intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
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
_CHECKSUM = "sha256"
"""Entry of the header with a checksum of the tensors and of its other entries. Early files have none."""


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Write tensors and a header, and return the path.

    Raises:
        SavingError: The path has a NUL character.
        OSError: The path is a folder, lies in a file, or cannot be written.
    """
    if "\0" in str(path):
        raise SavingError(f"{str(path)!r} has a NUL character, which no path may have: choose another one")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    if in_the_way := next((folder for folder in path.parents if folder.is_file()), None):
        raise NotADirectoryError(f"{in_the_way} is a file, and {path} cannot be in it: give the name of a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    # safetensors refuses tensors that share memory, as an expanded buffer or two views do, so copy each of them.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    pairs = [name for name, t in copies.items() if t.is_complex() and t.dtype != torch.complex64]
    copies |= {name: torch.view_as_real(copies[name]) for name in pairs}  # safetensors has no complex128
    full_header = {**header, _COMPLEX: pairs}
    full_header[_CHECKSUM] = _checksum(copies, full_header)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors makes files that only their owner can read
        # A single entry: safetensors stores several in an order that changes from process to process.
        save_file(copies, temporary, metadata={_FORMAT: json.dumps(full_header)})
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except KeyError as error:  # safetensors raises it for a type that it does not know
        raise TypeError(f"a file cannot hold tensors of type {error}: convert them first") from error
    except SafetensorError as error:  # it raises no OSError of its own
        raise OSError(f"{path} cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_file(path: Path) -> tuple[dict[str, Tensor], Header]:
    """Return the tensors by name, and the header.

    Raises:
        SavingError: The file is missing, broken, or not one of ours.
    """
    subfolder = path.parent / FOLDER
    advice = f"load '{subfolder}'" if (subfolder / path.name).exists() else ""
    if not path.is_file():  # another kind of file could be read forever
        what = f"{path} is no file" if path.exists() else f"there is no file {path}"
        raise SavingError(what + (f": {advice}" if advice else ""))
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
        return _checked(tensors, plan)
    except OSError as error:
        raise SavingError(f"{path} cannot be read ({error}): see that this user may read it") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SavingError(f"{path} is broken ({error}): it was cut short or changed; take an older copy") from error


def _checked(tensors: dict[str, Tensor], plan: str) -> tuple[dict[str, Tensor], Header]:
    """Return the tensors as they were saved, and the header; raise ValueError, KeyError or TypeError if broken."""
    header = json.loads(plan)
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    checksum = header.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, header):
        raise ValueError("its checksum differs")
    for name in header.get(_COMPLEX, ()):
        pairs = tensors[name]
        if not pairs.is_floating_point() or pairs.ndim == 0 or pairs.shape[-1] != 2:
            raise ValueError(f"'{name}' is no tensor of pairs")
        tensors[name] = torch.view_as_complex(pairs)
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Header) -> str:
    """Return a checksum of the names, types, shapes and bytes of tensors, and of a header without its checksum."""
    hasher = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(tensors):
        t = tensors[name]
        hasher.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        if t.numel():
            hasher.update(t.detach().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
