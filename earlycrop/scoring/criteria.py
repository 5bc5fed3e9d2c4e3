"""What a weight is worth: one short function a criterion, and the table of them. Higher is always more worth keeping.

A criterion gives each weight an effect, from the weight w, its gradient g and the Hessian product Hv. A unit's score is
the sum of the effects of the entries that it owns (a single weight, or all of a node's), and then the absolute value
unless the criterion's sign means something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

W = Float[Tensor, "..."]
Effect = Callable[[W, W, W], W]


def magnitude(w: W, g: W, hg: W) -> W:
    """|w| (Han et al. 2015); a node's is the L1 norm of its entries (Li et al. 2017)."""
    return w.abs()


def snip(w: W, g: W, hg: W) -> W:
    """w g, of which the absolute value counts (Lee et al. 2019, eq. 4; SNAP: Verdenius et al. 2020).

    Deviation: the EarlyCroP authors' code takes the mean logit as the loss; here it is the caller's loss.
    """
    return w * g


def grasp(w: W, g: W, hg: W) -> W:
    """w Hg with its sign: removing a weight changes the gradient flow by -w Hg, and the largest rise goes first.

    Source: Wang et al. 2020, eq. 8. Deviation: the EarlyCroP authors' code has the sign inverted.
    """
    return w * hg


def crop(w: W, g: W, hg: W) -> W:
    """w Hg, of which the absolute value counts: the change of the gradient flow (Rachwan et al. 2022, eq. 4)."""
    return w * hg


def crop_node(w: W, g: W, hg: W) -> W:
    """w Hg + g g, summed over a node's entries: the derivative of <g, dL/dw> by a gate c = 1 on the node.

    The closed form of the gates of the authors' code: with w' = c w, dL/dw = c L'(c w), and its derivative by c has
    both terms.
    """
    return w * hg + g * g


def crop_gate(w: W, g: W, hv: W) -> W:
    """w Hv with v = w g(c), which sums over a node to H(c) g(c): the gate-only form of Rachwan et al. 2022, eq. 6."""
    return w * hv


def taylor(w: W, g: W, hg: W) -> W:
    """w g of each batch, summed over a unit, squared, and summed over the batches: the squared change of the loss
    without it (Molchanov et al. 2019, eq. 8 and 9; a gate at a node's rows).
    """
    return w * g


def synflow(w: W, g: W, hg: W) -> W:
    """|w| dR/d|w|, R the sum of the outputs of the network with |w| in the place of w, on ones in the place of data
    (Tanaka et al. 2020, eq. 2 and algorithm 1): the synaptic flow through a weight. Nothing is read of the data.
    """
    return w * g


def norm_scale(w: W, g: W, hg: W) -> W:
    """|gamma|, the scale of a node's batch norms (Liu et al. 2017; Early-Bird: You et al. 2020, section 3).

    In a network without any, the L1 norm of the rows that produce the node.
    """
    return w.abs()


@dataclass(frozen=True)
class Criterion:
    """A row of the table: how an effect becomes a score.

    effect: of one weight; None gives every unit a random number. node_effect: of one of a node's entries, where it
    differs. order: the highest derivative that is needed. signed: the sum's sign counts, else its absolute value.
    along: what H is multiplied with: g, or the gates' w g(c) with g(c) = the sum of w g over a unit. norms: only the
    scales of batch norms count. per_batch: the sums of each batch are squared, and those squares summed. local: what
    counts is a node's rank in its group of coupled layers, so that each of them loses the same share. data_free: the
    derivative is that of the synaptic flow, and not of the loss. additive: the effects of (w, g, a) and (w, 0, b) add
    up to that of (w, g, a + b), so that a node's Hg need never be held whole. gate: where a node's gate stands unless
    told otherwise (see :class:`earlycrop.events.PruningRequest`): the columns that consume it, or, where a criterion's
    authors mean filters, the rows that produce it.
    """

    effect: Effect | None
    order: Literal[0, 1, 2]
    node_effect: Effect | None = None
    signed: bool = False
    along: Literal["gradient", "gates"] = "gradient"
    norms: bool = False
    per_batch: bool = False
    local: bool = False
    data_free: bool = False
    additive: bool = False
    gate: Literal["rows", "columns"] = "columns"


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
"""The names in ``CRITERIA``."""

CRITERIA: dict[CriterionName, Criterion] = {
    "magnitude": Criterion(magnitude, 0, gate="rows"),
    "random": Criterion(None, 0),
    "snip": Criterion(snip, 1),
    "grasp": Criterion(grasp, 2, signed=True, additive=True),
    "crop": Criterion(crop, 2, node_effect=crop_node, additive=True),
    "crop-flow": Criterion(crop, 2, additive=True),  # a node's without the g g of a gate
    "crop-gate": Criterion(crop_gate, 2, along="gates"),
    "taylor": Criterion(taylor, 1, per_batch=True, gate="rows"),
    "synflow": Criterion(synflow, 1, data_free=True),
    "norm-scale": Criterion(norm_scale, 0, norms=True, gate="rows"),
    "filter-norm": Criterion(magnitude, 0, local=True, gate="rows"),  # Li et al. 2017: ranked layer by layer
}
Gate = Literal["rows", "norms", "columns"]
"""Where a node's gate stands: on the rows that produce it (before a norm), on the scales and shifts of the batch norms
that follow it, or on the columns that consume it."""
