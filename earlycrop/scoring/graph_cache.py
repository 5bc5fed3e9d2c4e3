"""Keep the graphs of several batches' gradients, so that they can be differentiated again without another run."""

from __future__ import annotations

from typing import Any

from earlycrop.scoring.differentiable_network import DifferentiableNetwork, Edges, gradient_edges
from earlycrop.scoring.memory import call_measured
from earlycrop.utils.types import Tensors

MAX_BYTES = 2 * 1024**3
"""How large the tensors may be that all kept graphs save. It is no share of the free memory: which graphs are kept
changes sums in their last digit, and a resumed run must find the same."""


class GraphCache:
    """The graphs of the first batches' gradients.

    The first graph is measured, and as many are kept as would fit into ``MAX_BYTES`` if all were as large. The only
    graph of a single batch is always kept.

    Args:
        network: The network.
        batches: The number of batches that are differentiated twice.
    """

    def __init__(self, network: DifferentiableNetwork, batches: int) -> None:
        self._network = network
        self._batches = self._room = batches
        self._edges: dict[int, dict[str, Edges]] = {}

    def has_room(self, number: int) -> bool:
        """Whether the graph of the batch with this number is kept."""
        return number < self._room

    def differentiate(self, number: int, batch: Any) -> dict[str, Tensors]:
        """Return a batch's gradients by term and parameter, and keep their graph."""
        if number or self._batches == 1:
            gradients = self._network.gradients(batch)
        else:
            gradients, size = self._measure(batch)
            self._room = MAX_BYTES // max(1, size)
        if self.has_room(number):
            self._edges[number] = gradient_edges(gradients)
        return gradients

    def _measure(self, batch: Any) -> tuple[dict[str, Tensors], int]:
        """Return a batch's gradients, and the bytes that their graph saves."""
        gradients, size = call_measured(lambda: self._network.gradients(batch))
        return gradients, MAX_BYTES + 1 if size is None else size

    def pop(self, number: int) -> dict[str, Edges] | None:
        """Return the places of a batch's gradients in their graph, which is kept no longer, or None."""
        return self._edges.pop(number, None)
