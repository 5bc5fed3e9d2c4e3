"""The layer-shuffled control: remove as many units of each layer as a method chose, but at random.

If it does as well as the method, the method chooses only how much to remove of each layer.

Source: Su et al. 2020, "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot".
"""

from __future__ import annotations

import numpy as np
import torch

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask
from earlycrop.utils.distributed import ProcessGroup, broadcast_from_rank0
from earlycrop.utils.types import Tensors


def shuffle_nodes(graph: Graph, removed: NodeMask, group: ProcessGroup) -> NodeMask:
    """Draw as many nodes from each group of coupled layers.

    Args:
        graph: The network's graph.
        removed: The nodes that the method chose.
        group: The processes, which all get what the first one draws.

    Returns:
        The nodes to remove.
    """
    shuffled = np.zeros_like(removed)
    for members in graph.groups.values():
        nodes = np.array(members)
        shuffled[nodes[torch.randperm(nodes.size, device="cpu")[: int(removed[nodes].sum())].numpy()]] = True
    return broadcast_from_rank0(torch.from_numpy(shuffled), group).numpy()


def shuffle_weights(removed: Tensors, keep: Tensors, alive: Tensors | None, group: ProcessGroup) -> Tensors:
    """Draw as many weights from each matrix.

    Args:
        removed: The weights that the method chose, by matrix, with those of earlier rounds.
        keep: The weights that must stay, by matrix.
        alive: The weights that earlier rounds have left, by matrix; None in the first round.
        group: The processes, which all get what the first one draws.

    Returns:
        The weights to remove, with those of earlier rounds, by matrix.
    """
    shuffled = {}
    for name, chosen in removed.items():
        before = torch.zeros_like(chosen) if alive is None else ~alive[name]
        candidates = (~(before | keep[name])).flatten().nonzero().flatten()
        count = int(chosen.sum()) - int(before.sum())
        order = torch.randperm(candidates.numel(), device="cpu")[:count].to(candidates.device)
        drawn = before.flatten().index_fill(0, candidates[order], True).view_as(chosen)
        shuffled[name] = broadcast_from_rank0(drawn, group)
    return shuffled
