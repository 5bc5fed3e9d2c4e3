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

from earlycrop.utils.validation import check_call, check_type

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
    "crop-sum",
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
    """|w|. Summed over a node, it is the L1 norm of the node's entries."""
    return w.abs()


def first_order(w: W, g: W, hg: W) -> W:
    """w g, the first-order estimate of how the loss changes without the entry."""
    return w * g


def second_order(w: W, g: W, hg: W) -> W:
    """w Hg. Removing a weight changes the gradient flow by -w Hg."""
    return w * hg


def second_order_gate(w: W, g: W, hg: W) -> W:
    """w Hg + g g. Summed over a node, it is the derivative of <g, dL/dw> by a gate c = 1 on the node.

    With w' = c w, dL/dw = c L'(c w), and its derivative by c has both terms.
    """
    return w * hg + g * g


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
        by_term: Whether the terms of a loss count alike. The effect on the gradient flow |g_i|^2 of each term L_i is
            divided by that flow, and the absolute values are added up over the terms. If not, or with one term, the
            effect is that on the summed loss.
        additive: Whether effect(w, g, a) + effect(w, 0, b) = effect(w, g, a + b), so that the terms of a parameter's
            Hg can be used one by one, and Hg is never stored as a whole.
        matrices_only: Whether g is that of the parameters with two or more dimensions, and zero for biases and norms,
            as the EarlyCroP authors' code has it.
        batch_statistics: Whether batch norms use the batch's statistics for single weights, unless a pruning asks for
            running ones.
        temperature: What logits are divided by while derivatives are computed; see
            :class:`earlycrop.scoring.temperature.TemperedLogits`.
        gate: The entries that a node's gate multiplies, unless a pruning asks for others: "columns", or "rows" where
            the criterion's authors score filters.

    Raises:
        TypeError: An effect cannot be called with w, g and Hg.
        ValueError: ``order`` is not 0, 1 or 2.
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
    by_term: bool = False
    additive: bool = False
    matrices_only: bool = False
    batch_statistics: bool = False
    temperature: float = 1.0
    gate: Gate = "columns"

    def __post_init__(self) -> None:
        if self.order not in (0, 1, 2):
            raise ValueError(
                f"order must be 0, 1 or 2, and is {self.order}: 0 needs no batches, 1 needs the gradient, 2 needs Hg"
            )
        for name in ("effect", "node_effect"):
            effect = getattr(self, name)
            if effect is not None:
                check_type(f"the criterion's {name}", effect, Callable, "give a function of (w, g, Hg)")
                check_call(f"the criterion's {name}", effect, name, ("w", "g", "Hg"))


CRITERIA: dict[str, Criterion] = {
    # Han et al. 2015; for nodes, Li et al. 2017
    "magnitude": Criterion(magnitude, 0, gate="rows"),
    "random": Criterion(None, 0),
    # Lee et al. 2019, eq. 4; for nodes, SNAP (Verdenius et al. 2020). Deviation: the EarlyCroP authors' code takes the
    # mean logit as the loss; this one takes the caller's loss.
    "snip": Criterion(first_order, 1),
    # Wang et al. 2020, eq. 8: the largest increase of the gradient flow is removed first. Temperature and statistics
    # are those of their code, which also takes batches of as many samples of each class: give such batches where there
    # are classes. A loss without logits has no temperature. Deviations: g is of all parameters, theirs of convolutions'
    # and linear layers' weights; the EarlyCroP authors' code has the opposite sign.
    "grasp": Criterion(second_order, 2, signed=True, additive=True, batch_statistics=True, temperature=200.0),
    # Rachwan et al. 2022, eq. 4; for nodes the gates of eq. 5, in the closed form of what the authors' code
    # differentiates. Deviation: of a loss of several terms, eq. 4 is taken for each term.
    "crop": Criterion(second_order, 2, node_effect=second_order_gate, by_term=True, additive=True),
    "crop-sum": Criterion(second_order, 2, node_effect=second_order_gate, additive=True),  # of the sum of all terms
    "crop-flow": Criterion(second_order, 2, by_term=True, additive=True),  # without the term g g of a gate
    # Rachwan et al. 2022, eq. 6: with v = w g(c) in place of g, the sum over a node is H(c) g(c), the derivatives by
    # the gates c alone
    "crop-gate": Criterion(second_order, 2, direction="gates", by_term=True),
    # Molchanov et al. 2019, eq. 8 and 9, with a gate at a node's rows: an estimate of the squared change of the loss
    # without the unit
    "taylor": Criterion(first_order, 1, per_batch=True, gate="rows"),
    # Tanaka et al. 2020, eq. 2 and algorithm 1: |w| dR/d|w|, the flow through a weight. R is the sum of the outputs of
    # the network with |w| in place of w, on an input of ones.
    "synflow": Criterion(first_order, 1, data_free=True),
    # Liu et al. 2017; Early-Bird (You et al. 2020), section 3: |gamma|, the scale of a node's batch norms. In a network
    # without any, the L1 norm of the node's rows.
    "norm-scale": Criterion(magnitude, 0, norms=True, gate="rows"),
    # Li et al. 2017: ranked layer by layer
    "filter-norm": Criterion(magnitude, 0, local=True, gate="rows"),
}
"""Name -> criterion."""
