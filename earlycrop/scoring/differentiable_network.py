"""A network in scoring mode, whose loss's terms can be differentiated once and twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from earlycrop.scoring.loss_terms import TOTAL, loss_terms, total_loss
from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors, set_scoring_mode
from earlycrop.utils.errors import FlowError, raise_if_out_of_memory
from earlycrop.utils.types import Loss, Tensors

Edges = dict[str, GradientEdge]
"""Parameter name -> the place of its gradient in the graph, through which it is differentiated without its value."""


@dataclass(frozen=True)
class DifferentiableNetwork:
    """A network in scoring mode, its loss, and the leaves that stand in for its parameters.

    Args:
        model: The network.
        loss: (model, batch) -> the loss's terms.
        leaves: The leaves, by parameter name.
        by_term: Whether the loss's terms are differentiated each on its own, or their sum.
    """

    model: nn.Module
    loss: Loss
    leaves: Tensors
    by_term: bool

    def terms(self, batch: Any) -> Tensors:
        """Return what is differentiated on a batch, by name."""
        value = self.loss(self.model, batch)
        terms = loss_terms(value)
        return terms if self.by_term else {TOTAL: total_loss(terms)}

    def gradients(self, batch: Any) -> dict[str, Tensors]:
        """Return a batch's gradients by term and parameter, with the graph to differentiate them again."""
        leaves = list(self.leaves.values())
        gradients = {
            term: torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
            for term, value in self.terms(batch).items()
        }
        return {
            term: {name: g for name, g in zip(self.leaves, by_leaf, strict=True) if g is not None}
            for term, by_leaf in gradients.items()
        }

    def add_gradients(self, batch: Any, sums: dict[str, Tensors]) -> None:
        """Add a batch's gradients to ``sums``, by term and parameter."""
        terms = self.terms(batch)
        if not sums:
            sums.update({term: {} for term in terms})
        check_same_terms(terms, sums)
        for term, value in terms.items():
            with self._accumulate(sums[term]):
                keep = len(terms) > 1  # the other terms go through the same graph
                torch.autograd.backward(value, inputs=list(self.leaves.values()), retain_graph=keep)

    def add_products(
        self, edges: Mapping[str, Edges], directions: Mapping[str, Mapping[str, Tensor]], sums: dict[str, Tensors]
    ) -> None:
        """Add d<direction, gradient>/dw to ``sums``, by term and parameter."""
        for term, term_edges in edges.items():
            with self._accumulate(sums.setdefault(term, {})):
                self._backward(term_edges, directions[term], keep=len(edges) > 1)

    def stream_products(
        self, edges: Mapping[str, Edges], directions: Mapping[str, Mapping[str, Tensor]], deliver: _Deliver
    ) -> None:
        """Deliver the parts of d<direction, gradient>/dw while autograd computes the others."""
        for term, term_edges in edges.items():
            rest: Tensors = {}
            with _intercept(term_edges, self.leaves, partial(deliver, term)), self._accumulate(rest):
                self._backward(term_edges, directions[term], keep=len(edges) > 1)
            for name, product in rest.items():  # no operation's part, as the gradient is the parameter itself
                deliver(term, name, product)

    def _backward(self, edges: Edges, direction: Mapping[str, Tensor], keep: bool) -> None:
        """Differentiate the gradients. One that is constant in the parameters has no edge."""
        if not edges:
            return
        roots, vectors = list(edges.values()), [direction[name] for name in edges]
        try:
            torch.autograd.backward(roots, vectors, inputs=list(self.leaves.values()), retain_graph=keep)
        except FlowError:
            raise
        except RuntimeError as error:  # NotImplementedError is one
            raise_if_out_of_memory(error)
            raise FlowError(
                f"the gradient cannot be differentiated ({str(error).partition(chr(10))[0]}): take a method that needs "
                "no second derivative, such as snip or snap, or replace that operation"
            ) from error

    @contextmanager
    def _accumulate(self, sums: Tensors) -> Iterator[None]:
        """Let autograd add into ``sums``, in place: they are ``.grad`` of the leaves meanwhile."""
        try:
            for name, leaf in self.leaves.items():
                leaf.grad = sums.get(name)
            yield
        finally:
            for name, leaf in self.leaves.items():
                if leaf.grad is not None:
                    sums[name], leaf.grad = leaf.grad.detach(), None


_Deliver = Callable[[str, str, Tensor], None]
"""Called with a term, a parameter's name, and a part of the parameter's product."""


@contextmanager
def prepare_network(
    model: nn.Module, loss: Loss, batch_statistics: bool, by_term: bool
) -> Iterator[DifferentiableNetwork]:
    """Put the model into scoring mode, with leaves in place of its parameters.

    The leaves share the parameters' memory, so that the parameters' ``.grad`` and hooks are not touched.

    Args:
        model: The network.
        loss: (model, batch) -> the loss's terms.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        by_term: Whether the loss's terms are differentiated each on its own, or their sum.

    Raises:
        ValueError: There is no parameter to differentiate.
        FlowError: A part of the model gives no gradients by parameter.
    """
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad():
        leaves: Tensors = {name: nn.Parameter(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        if not leaves:
            raise ValueError("no parameter requires a gradient: there is nothing to score")
        set_scoring_mode(model, batch_statistics)
        try:
            with replace_tensors(model, leaves):
                yield DifferentiableNetwork(model, loss, leaves, by_term)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise FlowError(
                "a part of the model runs in torch.utils.checkpoint with use_reentrant=True, which does not support "
                "gradients by parameter: call it with use_reentrant=False"
            ) from error


def gradient_edges(gradients: Mapping[str, Tensors]) -> dict[str, Edges]:
    """Return the places of the gradients in the graph, by term and parameter. A constant gradient has none."""
    return {
        term: {name: get_gradient_edge(g) for name, g in by_name.items() if g.requires_grad}
        for term, by_name in gradients.items()
    }


def check_same_terms(terms: Iterable[str], first: Iterable[str]) -> None:
    """Raise FlowError if a batch's loss has other terms than the first batch's."""
    names, first_names = sorted(terms), sorted(first)
    if names != first_names:
        lists = f"{', '.join(first_names)} on one batch and {', '.join(names)} on another"
        raise FlowError(f"the loss has the terms {lists}: return the same terms for every batch")


@contextmanager
def _intercept(edges: Edges, leaves: Tensors, deliver: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Deliver each gradient that is sent to a leaf, and send None on, so that autograd sums nothing."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    visited, pending = set(), [edge.node for edge in edges.values()]

    def hook(leaf_inputs: Mapping[int, str], gradients: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor | None, ...]:
        for i, name in leaf_inputs.items():
            if (gradient := gradients[i]) is not None:
                deliver(name, gradient.detach())
        return tuple(None if i in leaf_inputs else gradient for i, gradient in enumerate(gradients))

    with ExitStack() as hooks:
        while pending:
            node = pending.pop()
            if node in visited:
                continue
            visited.add(node)
            leaf_inputs = {}
            for i, (successor, _) in enumerate(node.next_functions):
                name = names.get(id(getattr(successor, "variable", None)))
                if name is not None:
                    leaf_inputs[i] = name
                elif successor is not None:
                    pending.append(successor)
            if leaf_inputs:
                hooks.callback(node.register_hook(partial(hook, leaf_inputs)).remove)
        yield
