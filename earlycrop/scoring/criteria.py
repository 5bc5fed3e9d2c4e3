"""The table of criteria: each one is a function that says how much a weight is worth keeping.

A criterion gives each weight an effect, computed from the weight w, its gradient g and the Hessian product Hg. The
score of a unit is the sum of the effects of its entries: a single weight, or all entries of a node. Higher scores are
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Gate = Literal["rows", "norms", "columns"]
"""The entries that a node's gate multiplies: the rows that produce the node (before a norm), the scales and shifts of
the batch norms that follow it, or the columns that consume it."""
Statistics = Literal["auto", "running", "batch"]
"""The statistics that batch norms use while scores are computed. "auto" depends on where the gates are."""
CriterionName = Literal[
    "magnitude",
    "random",
    "snip",
    "grasp",
    "crop",
    "crop-flow",
    "crop-gate",
    "taylor",
    "synflow",
    "norm-scale",
    "filter-norm",
]
"""The keys of ``CRITERIA``."""

W = Float[Tensor, "..."]
Effect = Callable[[W, W, W], W]
"""(w, g, Hg) -> the effect of each entry, three tensors of one shape."""


def magnitude(w: W, g: W, hg: W) -> W:
    """|w|. Summed over a node, it is the L1 norm of the node's entries.

    Source: Han et al. 2015; for nodes, Li et al. 2017.
    """
    return w.abs()


def snip(w: W, g: W, hg: W) -> W:
    """w g. The score is the absolute value of the sum.

    Source: Lee et al. 2019, eq. 4; for nodes, SNAP (Verdenius et al. 2020). Deviation: the EarlyCroP authors' code
    takes the mean logit as the loss; this one takes the caller's loss.
    """
    return w * g


def grasp(w: W, g: W, hg: W) -> W:
    """w Hg, with its sign. Removing a weight changes the gradient flow by -w Hg; the largest increase is removed first.

    Source: Wang et al. 2020, eq. 8. Deviation: the EarlyCroP authors' code has the opposite sign.
    """
    return w * hg


def crop(w: W, g: W, hg: W) -> W:
    """w Hg. The score is the absolute value of the sum: how much removing the weight changes the gradient flow.

    Source: Rachwan et al. 2022, eq. 4.
    """
    return w * hg


def crop_node(w: W, g: W, hg: W) -> W:
    """w Hg + g g. Summed over a node, it is the derivative of <g, dL/dw> by a gate c = 1 on the node.

    With w' = c w, dL/dw = c L'(c w), and its derivative by c has both terms.

    Source: Rachwan et al. 2022, the gates of eq. 5, in the closed form of what the authors' code differentiates.
    """
    return w * hg + g * g


def crop_gate(w: W, g: W, hv: W) -> W:
    """w Hv with v = w g(c). Summed over a node, it is H(c) g(c), the derivatives by the gates c alone.

    Source: Rachwan et al. 2022, eq. 6.
    """
    return w * hv


def taylor(w: W, g: W, hg: W) -> W:
    """w g of each batch, summed over a unit, squared, and then summed over the batches.

    It is a first-order estimate of the squared change of the loss without the unit.

    Source: Molchanov et al. 2019, eq. 8 and 9, with a gate at a node's rows.
    """
    return w * g


def synflow(w: W, g: W, hg: W) -> W:
    """|w| dR/d|w|, the synaptic flow through a weight. The values of the data do not matter.

    R is the sum of the outputs of the network with |w| in place of w, on an input of ones.

    Source: Tanaka et al. 2020, eq. 2 and algorithm 1.
    """
    return w * g


def norm_scale(w: W, g: W, hg: W) -> W:
    """|gamma|, the scale of a node's batch norms. In a network without any, the L1 norm of the node's rows.

    Source: Liu et al. 2017; Early-Bird (You et al. 2020), section 3.
    """
    return w.abs()


@dataclass(frozen=True)
class Criterion:
    """A row of the table: how effects become scores.

    Args:
        effect: (w, g, Hg) -> the effect of each entry. None gives every unit a random score.
        order: The highest derivative that the effect needs.
        node_effect: The effect of a node's entries, if it differs from ``effect``.
        signed: Whether the sign of a sum counts. If not, the score is the absolute value of the sum.
        direction: What the Hessian H is multiplied by: "gradient" is g; "gates" is w g(c), where g(c) is the sum of w g
            over a unit.
        norms: Whether only the scales of batch norms count.
        per_batch: Whether the sum of each batch is squared, and the squares are added up over the batches.
        local: Whether a node's score is its rank in its group of coupled layers, so that all groups lose the same
            share.
        data_free: Whether g is the derivative of the synaptic flow instead of the loss.
        additive: Whether effect(w, g, a) + effect(w, 0, b) = effect(w, g, a + b), so that the terms of a parameter's
            Hg can be used one by one, and Hg is never stored as a whole.
        gate: The entries that a node's gate multiplies, unless a pruning asks for others: "columns", or "rows" where
            the criterion's authors score filters.
    """

    effect: Effect | None
    order: Literal[0, 1, 2]
    node_effect: Effect | None = None
    signed: bool = False
    direction: Literal["gradient", "gates"] = "gradient"
    norms: bool = False
    per_batch: bool = False
    local: bool = False
    data_free: bool = False
    additive: bool = False
    gate: Gate = "columns"


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, 0, gate="rows"),
    "random": Criterion(None, 0),
    "snip": Criterion(snip, 1),
    "grasp": Criterion(grasp, 2, signed=True, additive=True),
    "crop": Criterion(crop, 2, node_effect=crop_node, additive=True),
    "crop-flow": Criterion(crop, 2, additive=True),  # without the term g g of a gate
    "crop-gate": Criterion(crop_gate, 2, direction="gates"),
    "taylor": Criterion(taylor, 1, per_batch=True, gate="rows"),
    "synflow": Criterion(synflow, 1, data_free=True),
    "norm-scale": Criterion(norm_scale, 0, norms=True, gate="rows"),
    "filter-norm": Criterion(magnitude, 0, local=True, gate="rows"),  # Li et al. 2017: ranked layer by layer
}
"""Name -> criterion."""
