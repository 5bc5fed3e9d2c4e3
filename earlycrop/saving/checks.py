"""Check that what a file holds is what a cut of a model could have made, before any of it is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from earlycrop.saving.files import Header
from earlycrop.utils.errors import SavingError, SurgeryError
from earlycrop.utils.layer_sizes import layer_sizes, size_attribute_names
from earlycrop.utils.modules import tensors_by_name

SIZES = "sizes"
"""Entry of the header: module path -> size attribute -> size, or several sizes."""
DENSE = "dense"
"""Entry of the header: name of a tensor that was cut -> its shape before the first cut."""
GROUPS = ("groups", "num_groups")
Sizes = Mapping[str, Any]
"""Size attribute -> size, or several sizes."""


def check_header(header: Header) -> None:
    """Raise SavingError if a model's header does not have the form that ``save`` writes."""
    if SIZES not in header:
        if "state" in header:
            raise SavingError("it holds a training state and no model: earlycrop.load_state reads it")
        raise SavingError("its header has no sizes: it was changed, so take an older copy")
    sizes, dense = header[SIZES], header.get(DENSE, {})
    if not isinstance(sizes, dict) or not all(isinstance(entry, dict) for entry in sizes.values()):
        raise SavingError("the sizes in its header are no table: it was changed, so take an older copy")
    if not isinstance(dense, dict) or not all(isinstance(shape, list) for shape in dense.values()):
        raise SavingError("the dense shapes in its header are no table: it was changed, so take an older copy")
    for name, shape in dense.items():
        if not all(type(n) is int and n >= 0 for n in shape):
            raise SavingError(f"the dense shape of '{name}' is {shape}: it was changed, so take an older copy")


def check_tensors(
    network: nn.Module, saved: Mapping[str, Tensor], header: Header, dense: Mapping[str, list[int]]
) -> None:
    """Raise SavingError if names, types or values differ, or a shape differs in a way that no cut can have caused.

    Args:
        network: The fresh model.
        saved: The tensors of the file.
        header: The header of the file.
        dense: The shapes of the model's tensors before its first cut, of those that were cut.
    """
    tensors, modules = tensors_by_name(network), dict(network.named_modules())
    differing = sorted((saved.keys() ^ tensors.keys()) | (header[SIZES].keys() - modules.keys()))
    if differing:
        lacking = "the file" if differing[0] in tensors else "the model"
        raise SavingError(f"it is of another kind of model: {lacking} has no '{differing[0]}'")
    for name, t in saved.items():
        own = tensors[name]
        _check_shape(name, t, own, header, dense)
        if t.dtype != own.dtype:
            types = f"'{name}' is {t.dtype} in the file and {own.dtype} in the model"
            raise SavingError(
                f"it is of another type: {types}: convert the model first, such as by model.to({t.dtype})"
            )
        if _has_nan(t) and not _has_nan(own):
            raise SavingError(f"'{name}' holds NaN: training has diverged before it was saved; take an older copy")


def _check_shape(name: str, t: Tensor, own: Tensor, header: Header, dense: Mapping[str, list[int]]) -> None:
    shape = own.shape
    # A cut leaves at least one entry.
    fits = t.ndim == len(shape) and all(min(m, 1) <= n <= m for n, m in zip(t.shape, shape, strict=True))
    if isinstance(own, nn.Parameter) and DENSE in header and t.shape != shape:  # buffers may grow
        fits &= list(header[DENSE].get(name, t.shape)) == list(dense.get(name, shape))
    if not fits:
        before = f", {tuple(header[DENSE][name])} before it was cut," if name in header.get(DENSE, ()) else ""
        sizes = f"'{name}' is {tuple(t.shape)} in the file{before} and {tuple(shape)} in the model"
        advice = "give a fresh model of the same kind, as its constructor makes it"
        raise SavingError(f"it is of another kind of model: {sizes}: {advice}")


def _has_nan(t: Tensor) -> bool:
    is_inexact = t.is_floating_point() or t.is_complex()
    return is_inexact and not t.is_meta and bool(t.isnan().any())


def check_sizes(network: nn.Module, saved: Mapping[str, Tensor], header: Header) -> None:
    """Raise SavingError if a size attribute is none that a cut changes, or does not agree with the tensors.

    Args:
        network: The fresh model.
        saved: The tensors of the file, of which names and shapes were checked.
        header: The header of the file.
    """
    tensors = tensors_by_name(network)
    loaded = {id(own): saved[name] for name, own in tensors.items()}
    dims = {pair for name, own in tensors.items() for pair in zip(own.shape, saved[name].shape, strict=True)}
    for path, module in network.named_modules():
        sizes = header[SIZES].get(path, {})
        for attribute, size in sizes.items():
            _check_size(f"{path}.{attribute}".lstrip("."), module, attribute, size, dims)
        if not is_parametrized(module):
            _check_agreement(path, module, sizes, loaded)


def _check_size(name: str, module: nn.Module, attribute: str, size: Any, dims: Set[tuple[int, int]]) -> None:
    """Raise SavingError if a size is none that a cut can have left.

    Args:
        name: The attribute's name, for the error.
        module: The module that has it.
        attribute: The attribute.
        size: Its size in the file.
        dims: The sizes of the dimensions of all tensors, in the model and in the file.
    """
    current = vars(module).get(attribute)
    own = size_attribute_names(module) if type(module).__module__.startswith("torch.nn.") else ()
    if not isinstance(current, int | tuple | list) or (own and attribute not in (*own, *GROUPS)):
        raise SavingError(f"its header sets '{name}', which no cut changes: it was changed, so take an older copy")
    if not _is_left_of(size, current, () if own else dims):
        raise SavingError(
            f"its header sets '{name}' to {size!r}, which is {current} in the model, and no cut does that: give a "
            "fresh model of the same kind, as its constructor makes it"
        )


def _is_left_of(size: Any, current: Any, dims: Collection[tuple[int, int]]) -> bool:
    """Return whether a cut can leave a size, or several, of what there is.

    An integer goes with the size of a dimension, and several integers are the parts of one.
    """
    if isinstance(current, int):
        if type(size) is not int or (size != current and not 1 <= size < current):
            return False
        return size == current or not dims or any(size * before == current * after for before, after in dims)
    if not isinstance(size, list | tuple) or len(size) != len(current):
        return False
    if not all(type(n) is type(m) is int and (n == m or 0 <= n < m) for n, m in zip(size, current, strict=True)):
        return False
    return list(size) == list(current) or (sum(current), sum(size)) in dims


def _check_agreement(path: str, module: nn.Module, sizes: Sizes, saved: Mapping[int, Tensor]) -> None:
    """Raise SavingError if the sizes and tensors of one of torch's layers do not belong together.

    Args:
        path: The layer's path.
        module: The layer.
        sizes: The sizes of the file.
        saved: Id of the model's own tensor -> that of the file.
    """
    if not type(module).__module__.startswith("torch.nn."):
        return
    loaded = _with_tensors(module, sizes, saved)
    try:
        has_agreed = layer_sizes(module).items() <= vars(module).items()
        expected = layer_sizes(loaded) if has_agreed else {}
    except (SurgeryError, IndexError, AttributeError) as error:
        raise SavingError(f"the sizes of '{path}' are none of such a layer: {error}") from None
    for attribute, size in expected.items():
        if vars(loaded)[attribute] != size:
            says = f"{vars(loaded)[attribute]} in its header, and {size} by its tensors"
            raise SavingError(f"'{path}.{attribute}' is {says}: it was changed, so take an older copy")
    rows = () if isinstance(module, nn.RNNBase | nn.RNNCellBase) else size_attribute_names(module)[:1]
    lengths: dict[int, int] = {vars(module)[name]: vars(loaded)[name] for name in rows}
    for tensor_name, own, t in _vectors(module, loaded):
        if lengths.setdefault(len(own), len(t)) != len(t):
            says = f"{len(t)} entries, and others that belong to it {lengths[len(own)]}"
            raise SavingError(f"'{path}.{tensor_name}' has {says}: it was changed, so take an older copy")


def _with_tensors(module: nn.Module, sizes: Sizes, saved: Mapping[int, Tensor]) -> nn.Module:
    """Return a layer that has these sizes and tensors, and shares everything else with ``module``."""
    loaded = object.__new__(type(module))
    loaded.__dict__.update(vars(module) | dict(sizes))
    for kind in ("_parameters", "_buffers"):
        own = getattr(module, kind)
        loaded.__dict__[kind] = {name: t if t is None else saved[id(t)] for name, t in own.items()}
    return loaded


def _vectors(module: nn.Module, loaded: nn.Module) -> Iterable[tuple[str, Tensor, Tensor]]:
    """Yield the name of each vector of a layer, as it is and as it was saved."""
    for kind in ("_parameters", "_buffers"):
        for name, own in getattr(module, kind).items():
            if own is not None and own.ndim == 1:
                yield name, own, getattr(loaded, kind)[name]
