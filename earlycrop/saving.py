"""Save and load pruned models and training states as safetensors files, without pickle.

A file is written under a temporary name and then renamed, so that an interrupted write leaves the old file intact.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.errors import SavingError
from earlycrop.utils.layer_sizes import SIZES_ATTRIBUTE, set_size, size_attribute_names
from earlycrop.utils.modules import assign_tensor, tensor_owners, tensors_by_name
from earlycrop.utils.validation import check_shapes_known
from earlycrop.utils.wrappers import unwrap_stateless

MODEL_FILE = "model.safetensors"
FOLDER = "earlycrop"
"""Subfolder for our file where another library writes a file of the same name (``save_pretrained``, a Trainer)."""
_SIZES, _DENSE = "sizes", "dense"
"""Entries of the header: module path -> size attribute -> size, or several sizes; name of a tensor that was cut ->
its shape before."""
_DENSE_SHAPES = "_dense_shapes"
"""Attribute of a module with parameters or buffers that were cut: name -> shape before the first cut."""
Header = dict[str, Any]
_FORMAT = "earlycrop 1"  # the metadata's only entry, which holds the header as JSON
_GROUPS = ("groups", "num_groups")
_SCALARS = (bool, int, float, str, type(None))
_COMPLEX = "complex"
"""Entry of the header with the names of complex tensors that are stored as pairs of real numbers."""


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Save a pruned model to ``folder/model.safetensors``.

    The file holds parameters, buffers and the size attributes of modules. Compiled and parallel models are saved
    without their wrappers, an ``AveragedModel`` with its count.

    Args:
        model: The model.
        folder: The folder, which is created if it does not exist.

    Returns:
        The path of the file.

    Raises:
        OSError: The folder cannot be written.
        ValueError: A lazy module has not run yet.
        TypeError: A tensor is of a type that safetensors cannot store.
    """
    return _write(Path(folder) / MODEL_FILE, *model_contents(model))


def model_contents(model: nn.Module) -> tuple[dict[str, Tensor], Header]:
    """Return what ``save`` writes, for a checkpoint that another library writes.

    Args:
        model: The model.

    Returns:
        The tensors by name, not copied, and the header: the modules' size attributes, and shapes from before the cuts.

    Raises:
        ValueError: A lazy module has not run yet.
    """
    network = unwrap_stateless(model)
    check_shapes_known(network)
    sizes = {path: _get_sizes(module) for path, module in network.named_modules()}
    plan = {path: attributes for path, attributes in sizes.items() if attributes}
    return tensors_by_name(network), {_SIZES: plan, _DENSE: _dense_shapes(network)}


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Load a saved model into a freshly constructed one, which is shrunk in place to the saved sizes.

    The parameters stay the same objects. Weights that an unstructured pruning removed are zeros in the file;
    ``Masks.of_zeros(model, optimizer)`` holds them at zero in further training.

    Args:
        folder: The folder that ``save`` wrote to.
        model: The dense model, as its constructor makes it.

    Returns:
        ``model``.

    Raises:
        SavingError: The file is missing, broken, or of another kind of model, such as one with other classes. The model
            is unchanged.
        ValueError: A lazy module has not run yet.
    """
    path = Path(folder) / MODEL_FILE
    tensors, header = _read(path)
    return load_contents(model, tensors, header, path)


def load_contents(
    model: nn.Module, saved: Mapping[str, Tensor], header: Header, path: str | os.PathLike[str]
) -> nn.Module:
    """Load what ``model_contents`` returned into a freshly constructed model.

    Args:
        model: The dense model, as its constructor makes it.
        saved: The tensors by name.
        header: The header.
        path: Where they come from, for error messages.

    Returns:
        ``model``.

    Raises:
        SavingError: They are of another kind of model. The model is unchanged.
        ValueError: A lazy module has not run yet.
    """
    network = unwrap_stateless(model)
    check_shapes_known(network)
    _check_same_kind(network, saved, header, path)
    tensors, owners = tensors_by_name(network), tensor_owners(network)
    with outside_inference_mode():
        for name, t in saved.items():
            old = tensors[name]
            if isinstance(old, nn.Parameter):
                # The same object, so that existing optimizers train it. A fresh model has no graph that could break.
                old.data, old.grad = t.to(old.device), None
            else:
                assign_tensor(owners[id(old)], t.to(old.device))
    if dense := header.get(_DENSE):
        record_dense_shapes(network, dense)
    for module_path, sizes in header[_SIZES].items():
        module = network.get_submodule(module_path)
        if user_attributes := set(sizes) - set(size_attribute_names(module)) - set(_GROUPS):
            module.__dict__.setdefault(SIZES_ATTRIBUTE, set()).update(user_attributes)
        for attribute, size in sizes.items():
            set_size(module, attribute, size)
    return model


def save_state(state: Any, path: str | os.PathLike[str]) -> Path:
    """Save a training state, such as an optimizer's ``state_dict``, to a file.

    Args:
        state: A nest of dicts, lists, tuples, tensors, numbers, strings and None.
        path: The file. Its folder is created if it does not exist.

    Returns:
        The path of the file.

    Raises:
        TypeError: A value or a key is of another type.
        OSError: The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    return _write(Path(path), tensors, {"state": _pack(state, tensors)})


def load_state(path: str | os.PathLike[str]) -> Any:
    """Load a training state.

    Args:
        path: The file that ``save_state`` wrote.

    Returns:
        The state, with tensors on the CPU. Tuples become lists.

    Raises:
        SavingError: The file is missing, broken, or holds a model.
    """
    tensors, header = _read(Path(path))
    if "state" not in header:
        raise SavingError(f"{path} holds a model and no training state: earlycrop.load reads models")
    return _unpack(header["state"], tensors)


def _get_sizes(module: nn.Module) -> dict[str, Any]:
    """Return the size attributes of a module from the attributes themselves, which every cut has updated."""
    names = [*size_attribute_names(module), *sorted(vars(module).get(SIZES_ATTRIBUTE, ()))]
    values = {name: getattr(module, name, None) for name in names}
    sizes = {name: value for name, value in values.items() if isinstance(value, int | tuple | list)}
    if sizes:
        sizes |= {name: getattr(module, name) for name in _GROUPS if isinstance(getattr(module, name, None), int)}
    return sizes


def record_dense_shapes(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Note the shapes of parameters and buffers before a cut, where they differ from those of now.

    Args:
        network: A network that was cut. Shapes that were noted at an earlier cut stay.
        shapes: The shapes before, by name.
    """
    owners = tensor_owners(network)
    for name, t in tensors_by_name(network).items():
        if name in shapes and tuple(t.shape) != tuple(shapes[name]):
            for owner, attribute in owners[id(t)]:
                owner.__dict__.setdefault(_DENSE_SHAPES, {}).setdefault(attribute, list(shapes[name]))


def _dense_shapes(network: nn.Module) -> dict[str, list[int]]:
    """Return the shapes from before the first cut of what was cut, by name."""
    owners, shapes = tensor_owners(network), {}
    for name, t in tensors_by_name(network).items():
        owner, attribute = owners[id(t)][0]
        if attribute in vars(owner).get(_DENSE_SHAPES, ()):
            shapes[name] = vars(owner)[_DENSE_SHAPES][attribute]
    return shapes


def _check_same_kind(
    network: nn.Module, saved: Mapping[str, Tensor], header: Header, path: str | os.PathLike[str]
) -> None:
    """Raise SavingError if names differ, or a shape differs in a way that no cut can have caused."""
    tensors, dense, modules = tensors_by_name(network), _dense_shapes(network), dict(network.named_modules())
    differing = sorted((saved.keys() ^ tensors.keys()) | (header[_SIZES].keys() - modules.keys()))
    if differing:
        lacking = "the file" if differing[0] in tensors else "the model"
        raise SavingError(f"{path} is of another kind of model: {lacking} has no '{differing[0]}'")
    for name, t in saved.items():
        shape = tensors[name].shape
        fits = t.ndim == len(shape) and all(n <= m for n, m in zip(t.shape, shape, strict=True))
        if isinstance(tensors[name], nn.Parameter) and _DENSE in header and t.shape != shape:  # buffers may grow
            fits &= list(header[_DENSE].get(name, t.shape)) == list(dense.get(name, shape))
        if not fits:
            before = f", {tuple(header[_DENSE][name])} before it was cut," if name in header.get(_DENSE, ()) else ""
            sizes = f"'{name}' is {tuple(t.shape)} in the file{before} and {tuple(shape)} in the model"
            advice = "give a fresh one, as its constructor makes it"
            raise SavingError(f"{path} is of another kind of model: {sizes}: {advice}")


def _pack(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Convert a state to JSON, and move its tensors to ``tensors``."""
    if isinstance(state, Tensor):
        tensors[name := f"{len(tensors)}"] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        for key in state:
            if not isinstance(key, _SCALARS):
                raise TypeError(f"a training state cannot have {key!r} as a key: make it a number or a string")
        return {"dict": [[k, _pack(v, tensors)] for k, v in state.items()]}
    if isinstance(state, list | tuple):
        return [_pack(v, tensors) for v in state]
    if isinstance(state, _SCALARS):
        return state
    raise TypeError(f"a training state cannot hold a {type(state).__name__}: make it tensors, numbers or strings")


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, dict):
        if "tensor" in packed:
            return tensors[packed["tensor"]]
        return {k: _unpack(v, tensors) for k, v in packed["dict"]}
    return [_unpack(v, tensors) for v in packed] if isinstance(packed, list) else packed


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> Path:
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
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
    warnings.warn(
        f"this {type(module).__name__} was shrunk, and from_pretrained will refuse it, because its configuration "
        f"describes the dense network: make a fresh one from the configuration, then call "
        f"earlycrop.load('{subfolder}', fresh)",
        stacklevel=2,
    )
    return result
