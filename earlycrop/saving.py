"""Save and load a shrunk or masked model, and any training state, without pickle: safetensors, with a plan in JSON.

A file is written under a temporary name and renamed, so that an interrupted write leaves the old one.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.errors import SavingError
from earlycrop.utils.layer_sizes import SIZES_ATTRIBUTE, size_attribute_names
from earlycrop.utils.modules import assign_tensor, list_modules, tensor_owners, tensors_by_name
from earlycrop.utils.validation import check_shapes_known
from earlycrop.utils.wrappers import unwrap_stateless

MODEL_FILE = "model.safetensors"
FOLDER = "earlycrop"
"""Where a file is written beside another's of the same name: a ``save_pretrained``'s, or a Trainer's checkpoint."""
Plan = dict[str, dict[str, int]]
"""Layer -> its sizes, by attribute."""
_FORMAT = "earlycrop 1"
_GROUPS = ("groups", "num_groups")
_PAIRS = "complex"
"""In the header: tensors that are complex, and lie in the file as pairs of real numbers."""


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write parameters, buffers and the sizes of ``model``'s layers to ``folder``/model.safetensors; the file.

    Of a compiled or parallel model, what is inside; an ``AveragedModel`` with its count.

    Raises:
        OSError: the folder cannot be written. ValueError: a lazy module has no shapes yet. TypeError: a tensor is of a
        type that safetensors cannot hold.
    """
    held, plan = model_contents(model)
    return _write(Path(folder) / MODEL_FILE, held, {"sizes": plan})


def model_contents(model: nn.Module) -> tuple[dict[str, Tensor], Plan]:
    """What ``save`` writes, for a checkpoint of another's making: tensors by name, not copied, and layers' sizes."""
    model = unwrap_stateless(model)
    check_shapes_known(model)
    return tensors_by_name(model), {name: held for name, m in model.named_modules() if (held := _sizes(m))}


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Bring ``model``, fresh from its constructor, to the state that was saved in ``folder``: shrunk in place;
    returned.

    Its parameters stay the same objects. Weights of an unstructured pruning are zeros in the file;
    ``Masks.of_zeros(model, optimizer)`` holds them there.

    Raises:
        SavingError: the file is missing or broken, or it is not of this kind of model; the model is untouched.
        ValueError: a lazy module has no shapes yet.
    """
    path = Path(folder) / MODEL_FILE
    saved, header = _read(path)
    return load_contents(model, saved, header["sizes"], path)


def load_contents(model: nn.Module, saved: Mapping[str, Tensor], plan: Plan, path: str | os.PathLike[str]) -> nn.Module:
    """``load``, from ``contents`` that came from ``path``."""
    inside = unwrap_stateless(model)
    check_shapes_known(inside)
    named, where = tensors_by_name(inside), tensor_owners(inside)
    modules = dict(inside.named_modules())
    odd = sorted((set(saved) ^ set(named)) | (set(plan) - set(modules)))
    if odd:
        lacks = "the file" if odd[0] in named else "the model"
        raise SavingError(f"{path} is of another kind of model: {lacks} has no '{odd[0]}'")
    for name, t in saved.items():
        fresh = named[name]
        if t.ndim != fresh.ndim or any(n > m for n, m in zip(t.shape, fresh.shape, strict=True)):
            raise SavingError(
                f"{path} is of another kind of model: '{name}' is {tuple(t.shape)} there and {tuple(fresh.shape)} in "
                "the model given; give a fresh one, as its constructor makes it"
            )
    with outside_inference_mode():
        for name, t in saved.items():
            old = named[name]
            if isinstance(old, nn.Parameter):
                # the same object, so that an optimizer made before goes on with it; a fresh model has no graph to break
                old.data, old.grad = t.to(old.device), None
            else:
                assign_tensor(where[id(old)], t.to(old.device))
    for name, held in plan.items():
        own = set(held) - set(size_attribute_names(modules[name])) - set(_GROUPS)
        if own:
            modules[name].__dict__.setdefault(SIZES_ATTRIBUTE, set()).update(own)
        for attribute, value in held.items():
            setattr(modules[name], attribute, value)
    return model


def save_state(state: Any, path: str | os.PathLike[str]) -> Path:
    """Write a nest of dicts, lists, numbers, strings, None and tensors (an optimizer's state, say) to a file; its path.

    Raises:
        TypeError: the state, or a key of it, is something else. OSError: the file cannot be written.
    """
    held: dict[str, Tensor] = {}
    return _write(Path(path), held, {"state": _pack(state, held)})


def load_state(path: str | os.PathLike[str]) -> Any:
    """What ``save_state`` wrote, with tensors on the CPU and tuples as lists.

    Raises:
        SavingError: the file is missing or broken.
    """
    held, header = _read(Path(path))
    if "state" not in header:
        raise SavingError(f"{path} holds a model and no training state")
    return _unpack(header["state"], held)


def _sizes(module: nn.Module) -> dict[str, int]:
    """As its attributes say: they followed every cut, and what they are worked out from may be a parametrization."""
    names = [*size_attribute_names(module), *sorted(vars(module).get(SIZES_ATTRIBUTE, ()))]
    held = {a: getattr(module, a) for a in names if isinstance(getattr(module, a, None), int)}
    return {**held, **{a: getattr(module, a) for a in _GROUPS if held and isinstance(getattr(module, a, None), int)}}


def _pack(state: Any, held: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        name = f"{len(held)}"
        held[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {"dict": [[_key(k), _pack(v, held)] for k, v in state.items()]}
    if isinstance(state, list | tuple):
        return [_pack(v, held) for v in state]
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"a training state cannot hold a {type(state).__name__}: make it tensors, numbers or strings")


def _key(key: Any) -> Any:
    if key is None or isinstance(key, bool | int | float | str):
        return key
    raise TypeError(f"a training state cannot have {key!r} as a key: make it a number or a string")


def _unpack(packed: Any, held: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, dict):
        if "tensor" in packed:
            return held[packed["tensor"]]
        return {k: _unpack(v, held) for k, v in packed["dict"]}
    return [_unpack(v, held) for v in packed] if isinstance(packed, list) else packed


def _write(path: Path, held: Mapping[str, Tensor], header: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # a copy each: safetensors refuses tensors that share memory, and those may (an expanded buffer, two views of one)
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in held.items()}
    pairs = [name for name, t in copies.items() if t.is_complex() and t.dtype != torch.complex64]
    copies |= {name: torch.view_as_real(copies[name]) for name in pairs}  # safetensors has no such type
    header = {**header, _PAIRS: pairs} if pairs else header
    try:
        save_file(copies, temporary, metadata={"format": _FORMAT, "plan": json.dumps(header)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except KeyError as error:  # so it says that it does not know a type
        raise TypeError(f"a file cannot hold tensors of type {error}: convert them first") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    beside = path.parent / FOLDER
    written = f"load '{beside}'" if (beside / path.name).exists() else ""
    try:
        with outside_inference_mode(), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                instead = f"{written}, which was" if written else "its weights load with safetensors itself"
                raise SavingError(f"{path} was not written by earlycrop: {instead}")
            # a copy each: kernels add up in another order on memory that is not aligned as torch's own is
            held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            header = json.loads(metadata["plan"])
            return held | {name: torch.view_as_complex(held[name]) for name in header.get(_PAIRS, ())}, header
    except FileNotFoundError as error:
        raise SavingError(f"there is no file {path}" + (f": {written}" if written else "")) from error
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise SavingError(f"{path} is broken ({error}): it was cut short or changed; take an older copy") from error


def patch_save_pretrained(network: nn.Module) -> None:
    """From now on ``save_pretrained`` also writes what ``earlycrop.load`` reads, and says so."""
    for _, m in list_modules(network):
        if callable(getattr(type(m), "save_pretrained", None)) and "save_pretrained" not in vars(m):
            m.__dict__["save_pretrained"] = partial(_save_pretrained_and_plan, m)


def _save_pretrained_and_plan(module: Any, folder: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
    result = type(module).save_pretrained(module, folder, *arguments, **options)
    beside = Path(folder) / FOLDER
    save(module, beside)
    warnings.warn(
        f"this {type(module).__name__} was shrunk, and from_pretrained will refuse it, as its configuration describes "
        f"the dense network: make a fresh one from the configuration, and earlycrop.load('{beside}', fresh)",
        stacklevel=2,
    )
    return result
