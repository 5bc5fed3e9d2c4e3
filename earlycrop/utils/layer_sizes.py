"""The attributes in which torch's modules store the sizes of their parameters (``out_features``, ``in_channels``)."""

from __future__ import annotations

from typing import Any

from torch import nn

from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.parametrizations import weight_shape

SIZES_ATTRIBUTE = "_sizes_that_followed_a_cut"
"""Attribute in which a user's module records the names of its size attributes that a cut changed, for saving."""
_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("out_features", "in_features")),
    (nn.modules.conv._ConvNd, ("out_channels", "in_channels")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_channels",)),
    (nn.Embedding, ("num_embeddings", "embedding_dim")),
    (nn.EmbeddingBag, ("num_embeddings", "embedding_dim")),
    (nn.RNNBase, ("input_size", "hidden_size", "proj_size")),
    (nn.RNNCellBase, ("input_size", "hidden_size")),
)


def size_attribute_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the size attributes of a torch module, and none for other modules."""
    return next((names for kind, names in _SIZES if isinstance(module, kind)), ())


def set_size(module: nn.Module, attribute: str, size: Any) -> None:
    """Set a size attribute; several sizes become a list or tuple, as the attribute is now.

    Args:
        module: The module.
        attribute: The name of the attribute.
        size: An integer, or several.
    """
    kind = tuple if isinstance(getattr(module, attribute, None), tuple) else list
    store_size(module, attribute, size if isinstance(size, int) else kind(size))


def store_size(module: nn.Module, attribute: str, value: Any) -> None:
    """Store a value in a size attribute, as ``setattr`` does.

    Args:
        module: The module.
        attribute: The name of the attribute.
        value: The value.
    """
    own = type(module)
    if attribute in vars(module) and own.__setattr__ is nn.Module.__setattr__ and not hasattr(own, attribute):
        vars(module)[attribute] = value  # nn.Module looks first whether it is a parameter, which takes long
    else:
        setattr(module, attribute, value)


def layer_sizes(module: nn.Module) -> dict[str, int]:
    """Compute the size attributes of a torch module from the current shapes of its parameters.

    Args:
        module: Any module. Submodules are not looked at.

    Returns:
        Attribute name -> size. Empty for modules that are not torch's, or have no parameters.

    Raises:
        SurgeryError: An LSTM has no more hidden units than projections, or a parametrization fails.
    """
    shape = weight_shape(module)
    match module:
        case nn.modules.conv._ConvTransposeNd():
            return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
        case nn.modules.conv._ConvNd():
            return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}
        case nn.modules.batchnorm._NormBase() if not shape and module.running_mean is not None:
            return {"num_features": module.running_mean.shape[0]}
        case nn.RNNBase():
            return _recurrent_sizes(module)
        case nn.RNNCellBase():
            return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    return dict(zip(size_attribute_names(module), shape, strict=False))


def _recurrent_sizes(module: nn.RNNBase) -> dict[str, int]:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    parameters = dict(module.named_parameters(recurse=False))
    hidden = parameters["weight_hh_l0"].shape[0] // gates
    sizes = {"input_size": parameters["weight_ih_l0"].shape[1], "hidden_size": hidden}
    if module.proj_size:
        sizes["proj_size"] = parameters["weight_hr_l0"].shape[0]
        if hidden <= sizes["proj_size"]:
            why = f"torch cannot run an LSTM with {hidden} hidden units and {sizes['proj_size']} projections"
            raise SurgeryError(f"{why}: remove fewer units, or more projections")
    return sizes
