"""The graph that :func:`earlycrop.trace` returns, and its report."""

from __future__ import annotations

from earlycrop.graph.structure import GraphStructure
from earlycrop.graph.summary import summarize
from earlycrop.graph.text import format_summary


class Graph(GraphStructure):
    """The nodes of a network, made by :func:`earlycrop.trace`. ``print(graph)`` shows the report.

    Nodes are numbered from 0 to ``count`` - 1 in the order of the parameters. The numbers are valid until the network
    is cut.
    """

    def __str__(self) -> str:
        return self.report()

    def report(self, width: int | None = None) -> str:
        """Return what can be removed and what that saves, and what cannot be removed and why.

        Args:
            width: Longest line, in characters. None breaks no line.

        Returns:
            The report, for a person to read.
        """
        return format_summary(summarize(self), width)
