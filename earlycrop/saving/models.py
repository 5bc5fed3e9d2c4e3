"""Save pruned models, and load them into freshly constructed ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from earlycrop.saving.checks import DENSE, GROUPS, SIZES, check_header, check_sizes, check_tensors
from earlycrop.saving.files import Header, read_file, write_file
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.errors import SavingError
from earlycrop.utils.layer_sizes import SIZES_ATTRIBUTE, set_size, size_attribute_names
from earlycrop.utils.modules import assign_tensor, flatten_recurrent_weights, tensor_owners, tensors_by_name
from earlycrop.utils.validation import check_shapes_known, check_type
from earlycrop.utils.wrappers import unwrap_stateless

MODEL_FILE = "model.safetensors"
_DENSE_SHAPES = "_dense_shapes"
"""Attribute of a module with parameters or buffers that were cut: name -> shape before the first cut."""


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
        TypeError: An argument has the wrong type, or a tensor is of a type that safetensors cannot store.
    """
    check_type("the folder", folder, str | os.PathLike, "call save(model, folder)")
    return write_file(Path(folder) / MODEL_FILE, *model_contents(model))


def model_contents(model: nn.Module) -> tuple[dict[str, Tensor], Header]:
    """Return what ``save`` writes, for a checkpoint that another library writes.

    Args:
        model: The model.

    Returns:
        The tensors by name, not copied, and the header: the modules' size attributes, and shapes from before the cuts.

    Raises:
        ValueError: A lazy module has not run yet.
    """
    check_shapes_known(model)
    network = unwrap_stateless(model)
    sizes = {path: _get_sizes(module) for path, module in network.named_modules()}
    plan = {path: attributes for path, attributes in sizes.items() if attributes}
    return tensors_by_name(network), {SIZES: plan, DENSE: _dense_shapes(network)}


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
    check_type("the folder", folder, str | os.PathLike, "call load(folder, model)")
    check_type("the model", model, nn.Module, "give a fresh one, as its constructor makes it")
    path = Path(folder) / MODEL_FILE
    tensors, header = read_file(path)
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
    check_shapes_known(model)
    network = unwrap_stateless(model)
    try:
        check_header(header)
        check_tensors(network, saved, header, _dense_shapes(network))
        check_sizes(network, saved, header)
    except SavingError as error:
        raise SavingError(f"{path} cannot be loaded: {error}") from None
    tensors, owners = tensors_by_name(network), tensor_owners(network)
    with outside_inference_mode():
        for name, t in saved.items():
            old = tensors[name]
            if isinstance(old, nn.Parameter):
                # The same object, so that existing optimizers train it. A fresh model has no graph that could break.
                old.data, old.grad = t.to(old.device), None
            else:
                assign_tensor(owners[id(old)], t.to(old.device))
    if dense := header.get(DENSE):
        record_dense_shapes(network, dense)
    for module_path, sizes in header[SIZES].items():
        module = network.get_submodule(module_path)
        if user_attributes := set(sizes) - set(size_attribute_names(module)) - set(GROUPS):
            module.__dict__.setdefault(SIZES_ATTRIBUTE, set()).update(user_attributes)
        for attribute, size in sizes.items():
            set_size(module, attribute, size)
    flatten_recurrent_weights(network)
    return model


def _get_sizes(module: nn.Module) -> dict[str, Any]:
    """Return the size attributes of a module from the attributes themselves, which every cut has updated."""
    names = [*size_attribute_names(module), *sorted(vars(module).get(SIZES_ATTRIBUTE, ()))]
    values = {name: getattr(module, name, None) for name in names}
    sizes = {name: value for name, value in values.items() if isinstance(value, int | tuple | list)}
    if sizes:
        sizes |= {name: getattr(module, name) for name in GROUPS if isinstance(getattr(module, name, None), int)}
    return sizes


def record_dense_shapes(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Note the shapes that parameters and buffers had before a cut, for those that it has changed.

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
