"""What a reader of an event must know beside its numbers, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.utils.parameters import norm_scales, prunable_matrices, weight_matrices
from earlycrop.utils.validation import enumerate_names

FEW = 0.02
"""A layer that is left with a smaller share of its weights is named in the event and in a warning."""


def make_notes(request: PruningRequest, network: nn.Module, weights: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Return a sentence for each thing that a reader must know.

    They are layers that are nearly empty, a score that was replaced by another, a random control, and weights that
    cannot be zero.

    Args:
        request: What was asked for.
        network: The network after the pruning.
        weights: The weights of each layer before and after, if single weights were removed.
    """
    notes = list_nearly_empty(weights)
    if request.criterion.norms and not norm_scales(network):
        notes.append("the network has no batch norm: the norm of the rows that produce a node replaced its scale")
    if request.shuffled:
        notes.append("random control: as many units of each layer as were selected were removed at random")
    if not request.structured:
        prunable = prunable_matrices(network)
        notes += [
            f"'{name}' was not pruned: its parametrization does not turn a zero in it into a zero of the weight"
            for name, p in weight_matrices(network).items()
            if p.requires_grad and name not in prunable
        ]
    return tuple(notes)


def list_nearly_empty(layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say which layers are left with hardly any weights; ``layers``: the weights of each before and after."""
    return [
        f"layer {name} keeps {after:,} of its {before:,} weights, less than {FEW:.0%}"
        for name, (before, after) in layers.items()
        if after < FEW * before
    ]


def list_left_alone(matrices: Mapping[str, Tensor], prunable: Mapping[str, Tensor]) -> list[str]:
    """Return a note on the weights that the target does not count."""
    rest = [name for name in matrices if name not in prunable]
    if not rest:
        return []
    count, total = (sum(matrices[name].numel() for name in names) for names in (rest, matrices))
    return [
        f"the target does not count {count:,} of {total:,} weights ({count / total:.0%}), which stay, as they are not "
        f"trained, or not the weight of a matrix product, a convolution or a recurrent cell: {enumerate_names(rest)}"
    ]


def list_uncalled(graph: Graph) -> list[str]:
    """Return a note on the layers that no scoring batch has run."""
    if not graph.uncalled:
        return []
    return [f"what these layers may use was kept, as no batch runs them: {enumerate_names(graph.uncalled)}"]
