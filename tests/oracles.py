"""The oracle of a cut: the dense network in which all that the cut removes is zero."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from earlycrop import shrink, trace
from earlycrop.graph.graph import Graph
from tests.toy import Net, drop_unused


def some_nodes(graph: Graph, share: float, seed: int) -> list[int]:
    """A random choice that leaves at least one node in every dimension of every tensor."""
    rng = np.random.default_rng(seed)
    removed = rng.random(graph.count) < share
    for slot in graph.axes:
        if (slot.nodes >= 0).all() and removed[slot.nodes].all():
            removed[slot.nodes[rng.integers(slot.nodes.size)]] = False
    return removed.nonzero()[0].tolist()


def zeroed(model: nn.Module, graph: Graph, remove: list[int]) -> nn.Module:
    """A copy in which every parameter entry that a removed node owns is zero, so that the node says nothing at all."""
    masked = copy.deepcopy(model)
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for i in remove:
            for name, dim, index in graph.nodes[i].owns:
                if name in parameters:
                    parameters[name].index_fill_(dim, torch.tensor(index), 0)
    return masked


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(model.eval()(example))


Gone = dict[str, list[tuple[int, Tensor]]]


def gone_of(graph: Graph, remove: list[int]) -> Gone:
    """For each tensor, the dimensions that are cut, and the indices that go."""
    gone: Gone = {}
    for i in remove:
        for name, dim, index in graph.nodes[i].owns:
            gone.setdefault(name, []).append((dim, torch.tensor(index)))
    return gone


def kept(t: Tensor, gone: list[tuple[int, Tensor]]) -> Tensor:
    for d in range(t.ndim):
        lost = [i for dim, index in gone if dim == d for i in index.tolist()]
        if t.shape[d] > 1:
            t = t.index_select(d, torch.tensor(np.setdiff1d(np.arange(t.shape[d]), lost)))
    return t


def with_zeros(t: Tensor, gone: list[tuple[int, Tensor]]) -> Tensor:
    for dim, index in gone:
        if t.ndim > dim and t.shape[dim] > 1:
            if t.is_sparse:
                t = t.coalesce()
                values = t.values().index_fill(dim, index, 0)
                t = torch.sparse_coo_tensor(t.indices(), values, t.shape, check_invariants=True)
            else:
                t = t.index_fill(dim, index, 0)
    return t


def step(model: nn.Module, optimizers: list[Optimizer], example: Any, gone: Gone | None = None) -> None:
    @torch.enable_grad()  # that of transformers calls it without gradients
    def closure() -> Tensor:
        for o in optimizers:
            o.zero_grad()
        loss = (model.eval()(example).tanh() ** 2).mean()
        loss.backward()
        for name, p in model.named_parameters():
            if gone and name in gone and p.grad is not None:
                p.grad = with_zeros(p.grad, gone[name])
        return loss

    for o in optimizers:
        o.step(closure)


def certified(model: nn.Module, x: Tensor, nodes: int) -> Graph:
    """The graph, which has so many nodes, of which some are cut. Layers that a ``Net`` does not use are dropped."""
    if isinstance(model, Net):
        drop_unused(model, x)
    graph = trace(model, x)
    assert graph.count == nodes
    assert set(range(nodes)) <= {i for layer in graph.layers for i in layer.nodes.tolist()}  # all are counted
    cut = shrink(model, graph, some_nodes(graph, 0.5, 0))
    assert cut.difference is not None
    assert cut.difference <= 1e-10
    return graph
