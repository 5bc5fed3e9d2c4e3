"""The layer-shuffled control: as many go of each layer as a method chose, but at random.

It tells whether a method chooses weights, or only how many of which layer (Su et al. 2020, "Sanity-Checking Pruning
Methods: Random Tickets can Win the Jackpot").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask


def shuffle_nodes(graph: Graph, removed: NodeMask) -> NodeMask:
    """As many nodes of each group of coupled layers, at random."""
    shuffled = np.zeros_like(removed)
    for ids in graph.groups.values():
        index = np.array(ids)
        shuffled[index[torch.randperm(index.size)[: int(removed[index].sum())].numpy()]] = True
    return shuffled


def shuffle_weights(
    removed: Mapping[str, Tensor], keep: Mapping[str, Tensor], alive: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """As many weights of each matrix, at random; what went before stays gone, and ``keep`` stays."""
    shuffled = {}
    for name, gone in removed.items():
        before = torch.zeros_like(gone) if alive is None else ~alive[name]
        free = ~before & ~keep[name] if name in keep else ~before
        candidates = free.flatten().nonzero().flatten()
        count = int(gone.sum()) - int(before.sum())
        order = torch.randperm(candidates.numel())[:count].to(candidates.device)
        shuffled[name] = before.flatten().index_fill(0, candidates[order], True).view_as(gone)
    return shuffled
