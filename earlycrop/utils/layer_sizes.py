"""The attributes in which torch's own modules keep the sizes of their parameters."""

from __future__ import annotations

from torch import nn

from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.parametrizations import weight_shape

SIZES_ATTRIBUTE = "_sizes_that_followed_a_cut"
"""Where a module of the user's own notes its attributes that a cut has changed, so that they can be saved."""
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
    """The attributes of torch's own modules that hold a size, whether or not ``sizes`` can tell it."""
    return next((names for kind, names in _SIZES if isinstance(module, kind)), ())


def layer_sizes(module: nn.Module) -> dict[str, int]:
    """The attributes of torch's own modules that hold a size, as the module's parameters have it now."""
    shape = weight_shape(module)
    match module:
        case nn.Linear():
            return {"out_features": shape[0], "in_features": shape[1]}
        case nn.modules.conv._ConvTransposeNd():
            return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
        case nn.modules.conv._ConvNd():
            return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}
        case nn.modules.batchnorm._NormBase():
            held = shape or (() if module.running_mean is None else tuple(module.running_mean.shape))
            return {"num_features": held[0]} if held else {}
        case nn.GroupNorm() if shape:
            return {"num_channels": shape[0]}
        case nn.Embedding() | nn.EmbeddingBag():
            return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
        case nn.RNNBase():
            gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            own = dict(module.named_parameters(recurse=False))
            projection = {"proj_size": own["weight_hr_l0"].shape[0]} if module.proj_size else {}
            hidden = own["weight_hh_l0"].shape[0] // gates
            if projection and hidden <= projection["proj_size"]:
                raise SurgeryError(
                    f"an LSTM with {hidden} hidden units and {projection['proj_size']} projections is none that torch "
                    "can run: remove fewer units, or more projections"
                )
            return {"input_size": own["weight_ih_l0"].shape[1], "hidden_size": hidden, **projection}
        case nn.RNNCellBase():
            return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    return {}
