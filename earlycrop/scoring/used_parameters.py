"""Find the parameters that the loss depends on, and the size of its graph, with forward passes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.scoring.loss_terms import named_terms
from earlycrop.scoring.memory import call_measured
from earlycrop.utils.contexts import differentiable_kernels, preserve_state, set_scoring_mode
from earlycrop.utils.distributed import ProcessGroup, fail_together, merge_across_processes
from earlycrop.utils.errors import raise_if_out_of_memory
from earlycrop.utils.types import Loss


@dataclass(frozen=True)
class LossRun:
    """What runs of the loss have shown.

    Args:
        unused: The names of the trained parameters that the loss does not depend on.
        graph_bytes: The bytes that the graph of the first batch's loss saves. None if they are not known.
    """

    unused: frozenset[str] = frozenset()
    graph_bytes: int | None = None


def run_loss(
    model: nn.Module, loss: Loss, batches: Sequence[Any], batch_statistics: bool = False, group: ProcessGroup = None
) -> LossRun:
    """Find the trained parameters that the loss does not depend on, and measure its graph.

    Such a parameter is used in no forward pass (a token for masked inputs), only in training mode (an auxiliary head),
    or by an output that the loss does not read. Batches are run until all parameters have been used.

    Args:
        model: The network. It is run as scores are computed: in evaluation mode.
        loss: (model, batch) -> scalar loss, or its terms.
        batches: The batches to score on, at least one.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: The processes that score together. A parameter that one of them uses is used.

    Returns:
        The names of the parameters, and the size of the graph.

    Raises:
        ValueError: The loss fails on the first batch.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    used: set[str] = set()
    with fail_together(group), preserve_state(model), differentiable_kernels(model), torch.enable_grad():
        set_scoring_mode(model, batch_statistics)
        for number, batch in enumerate(batches):
            if number:
                terms = loss(model, batch)
            else:
                terms, graph_bytes = _call_first(loss, model, batch)
            used |= {names[i] for i in _leaf_ids(named_terms(terms).values()) if i in names}
            del terms  # with its graph, before the next one is built
            if len(used) == len(names):
                break
    used = set(merge_across_processes(dict.fromkeys(used, ""), group))
    return LossRun(frozenset(names.values()) - used, graph_bytes)


def _call_first(loss: Loss, model: nn.Module, batch: Any) -> tuple[Any, int | None]:
    """Return the loss, and the bytes that its graph saves."""
    try:
        return call_measured(lambda: loss(model, batch))
    except Exception as error:
        raise_if_out_of_memory(error)
        cause = f"{type(error).__name__}: {error}".rstrip(".")
        advice = "Check that the loss can read one item of the batches that you gave; for one batch give [(X, Y)]"
        if "more than 1 value per channel" in cause:  # torch's words where a batch norm uses the batch's statistics
            advice = "Give batches of more examples, or statistics='running'"
        raise ValueError(f"loss(model, batch) failed on the first batch: {cause}. {advice}") from error


def _leaf_ids(values: Any) -> set[int]:
    """Return the ids of the leaves that autograd would reach from these values."""
    leaves, visited = set(), set()
    pending = []
    for value in values:
        if isinstance(value, Tensor) and value.requires_grad:
            leaves |= {id(value)} if value.grad_fn is None else set()
            pending.append(value.grad_fn)
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
        pending.extend(successor for successor, _ in node.next_functions)
    return leaves
