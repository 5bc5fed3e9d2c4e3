"""Examples in an order in which every batch has as many of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.runner.options import Options


def scoring_order(options: Options, order: Tensor, labels: Tensor) -> Tensor:
    """Return the order in which training examples are scored on: as given, or balanced where the method asks for it.

    GraSP's authors score on as many examples of each class.

    Args:
        options: The run's options.
        order: Indices of examples, in a random order.
        labels: The class of each example.
    """
    return balanced(order, labels) if "grasp" in (options.method, options.criterion) else order


def balanced(order: Tensor, labels: Tensor) -> Tensor:
    """Return the order in which every class comes once, then every class again, until one after the other runs out.

    Args:
        order: Indices of examples. Those of a class keep their order.
        labels: The class of each example.
    """
    classes = labels[order]
    turn = torch.empty_like(order)
    for label in set(classes.tolist()):
        members = (classes == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    return order[torch.argsort(turn, stable=True)]
