"""The gradient g of a loss over batches and products of its Hessian H with a direction: the only second derivatives
here.

Every criterion of the paper is a function of the weight w, g and Hg. With several batches, a first pass sums g and a
second one differentiates <v, g_b> batch by batch; with one batch, both passes share one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from earlycrop.utils.contexts import differentiable_kernels, preserve_state, set_scoring_mode
from earlycrop.utils.distributed import ProcessGroup, all_reduce_mean, fail_together
from earlycrop.utils.errors import FlowError
from earlycrop.utils.modules import assign_tensor, tensor_owners
from earlycrop.utils.types import Loss, Tensors


@dataclass(frozen=True)
class Derivatives:
    """First and second derivatives of the summed loss, by parameter name.

    gradient: g = sum over batches of dL_b/dw, in the loss's unit per unit of w.
    product: H v = sum over batches of d<v, dL_b/dw>/dw, where v is g unless a direction was given; None if not asked
    for.
    """

    gradient: Tensors
    product: Tensors | None


def flow(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    second: bool = True,
    direction: Mapping[str, Tensor] | None = None,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> Derivatives:
    """g and, if ``second``, Hg (or H times ``direction``) of ``loss`` summed over ``batches``.

    Parameters with ``requires_grad`` take part. Dropout is off; batch norm uses its running statistics, or the batch's
    own with ``batch_statistics``. Modes, random states, ``.grad``, buffers and hooks of the parameters are left as they
    were. Memory: weights, g, Hg and one batch's graph.

    ``group``: a torch.distributed process group whose processes each have the model and batches of their own, as many;
    g and Hg are the means over them, as those of DistributedDataParallel are: of one process whose batches are these
    put together, where they are equally large. All of them must call this.

    Source: EarlyCroP (Rachwan et al. 2022), eq. 4. Deviation: the authors keep the graphs of all batches.

    Raises:
        ValueError: there is no batch, or no parameter to differentiate.
        FlowError: the loss is not a finite scalar, a parameter is unused, or a derivative is not finite; it is named.
    """
    with fail_together(group):
        batches = list(batches)
        if not batches:
            raise ValueError("no batch to score on: give at least one batch of training data")
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad(), _leaves(model) as leaves:
        set_scoring_mode(model, batch_statistics)
        if second and len(batches) == 1:
            with fail_together(group, FlowError):
                graph = _graph(model, loss, batches[0], leaves)
            gradient = all_reduce_mean(_detach_values(graph) if group is None else _copy_values(graph), group)
            with fail_together(group, FlowError):
                _differentiate(_edges(graph), leaves, _check_direction(direction, leaves) if direction else gradient)
            product = all_reduce_mean(_take_gradients(leaves, used=False), group)
            return Derivatives(_check_finite(gradient, "gradient"), _check_finite(product, "Hessian product"))
        with fail_together(group, FlowError):
            for batch in batches:
                _check_scalar(loss(model, batch)).backward(inputs=list(leaves.values()))  # type: ignore[no-untyped-call]
            taken = _take_gradients(leaves, used=True)
        gradient = _check_finite(all_reduce_mean(taken, group), "gradient")
        if not second:
            return Derivatives(gradient, None)
        along = _check_direction(direction, leaves) if direction else gradient
        with fail_together(group, FlowError):
            for batch in batches:
                _differentiate(_edges(_graph(model, loss, batch, leaves, all_used=False)), leaves, along)
        return Derivatives(
            gradient, _check_finite(all_reduce_mean(_take_gradients(leaves, used=False), group), "Hessian product")
        )


def flow_by_parameter(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    use: Callable[[str, Tensor, Tensor], None],
    *,
    in_parts: bool = False,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> None:
    """Hand g and Hg of each parameter, by its name, to ``use``: what it makes of them can be much smaller.

    The same numbers as :func:`flow`, and the same errors. With one batch a parameter's Hg is let go of before the next
    one's is computed. Hg is a sum over the operations that read the parameter; ``in_parts`` hands over each term as it
    arrives, g with the first and zeros with the others, so that none waits for the rest. Memory: weights, g, one
    batch's graph, and Hg of one parameter, beside (without ``in_parts``) the terms that wait: often as much as g. Where
    several processes average (``group``), they exchange Hg whole.
    """
    batches = list(batches)
    if len(batches) != 1 or group is not None:
        whole = flow(model, loss, batches, batch_statistics=batch_statistics, group=group)
        for name, g in whole.gradient.items():
            use(name, g, (whole.product or {})[name])
        return
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad(), _leaves(model) as leaves:
        set_scoring_mode(model, batch_statistics)
        gradient = _graph(model, loss, batches[0], leaves)
        values = _check_finite(_detach_values(gradient), "gradient")
        waiting = dict(values)

        def arrived(name: str, product: Tensor) -> None:
            g = waiting.pop(name, None)
            _check_finite({name: product}, "Hessian product")
            use(name, memoryless_zeros(product) if g is None else g, product)

        def gathered(name: str, leaf: Tensor) -> None:
            if leaf.grad is not None:  # nothing of a leaf whose terms were all intercepted
                product, leaf.grad = leaf.grad.detach(), None
                arrived(name, product)

        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(partial(gathered, name))  # type: ignore[no-untyped-call]
        edges = _edges(gradient)
        if in_parts:
            _intercept(edges, leaves, arrived)
        del gradient
        _differentiate(edges, leaves, values)
        for name, g in dict(waiting).items():
            arrived(name, memoryless_zeros(g))


def _intercept(edges: Mapping[str, GradientEdge], leaves: Tensors, take: Callable[[str, Tensor], None]) -> None:
    """Have the graph's nodes hand what they would send to the leaves to ``take``; autograd sums nothing then."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    seen, todo = set(), [edge.node for edge in edges.values()]

    def hook(mine: Mapping[int, str], sent: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor | None, ...]:
        for i, name in mine.items():
            if (part := sent[i]) is not None:
                take(name, part.detach())
        return tuple(None if i in mine else part for i, part in enumerate(sent))

    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        followers = [following for following, _ in node.next_functions]
        leading = {i: names.get(id(getattr(f, "variable", None))) for i, f in enumerate(followers)}
        mine = {i: name for i, name in leading.items() if name is not None}
        todo += [f for i, f in enumerate(followers) if f is not None and i not in mine]
        if mine:
            node.register_hook(partial(hook, mine))


def memoryless_zeros(like: Tensor) -> Tensor:
    """Zeros of its shape, dtype and device that all share one number's memory."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand_as(like)


@contextmanager
def _leaves(model: nn.Module) -> Iterator[Tensors]:
    """Put leaves that share the parameters' memory in their place: gradients gather there, and no hook runs."""
    real = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not real:
        raise ValueError("no parameter requires a gradient: there is nothing to score")
    leaves: Tensors = {name: nn.Parameter(p.detach()) for name, p in real.items()}
    where = tensor_owners(model)
    spots = {name: where[id(p)] for name, p in real.items()}
    try:
        for name, leaf in leaves.items():
            assign_tensor(spots[name], leaf)
        yield leaves
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise FlowError(
            "a part of the model runs in torch.utils.checkpoint with use_reentrant=True, which does not give single "
            "gradients: call it with use_reentrant=False"
        ) from error
    finally:
        for name, p in real.items():
            assign_tensor(spots[name], p)


def _graph(model: nn.Module, loss: Loss, batch: Any, leaves: Tensors, all_used: bool = True) -> Tensors:
    """One batch's gradients, with the graph that they can be differentiated through."""
    value = _check_scalar(loss(model, batch))
    got = torch.autograd.grad(value, list(leaves.values()), create_graph=True, allow_unused=True)
    gradient = {name: g for name, g in zip(leaves, got, strict=True) if g is not None}
    if all_used:
        _check_used([name for name in leaves if name not in gradient])
    return gradient


def _edges(gradient: Tensors) -> dict[str, GradientEdge]:
    """Where the gradients stand in the graph: their values need not be kept to differentiate them."""
    return {name: get_gradient_edge(g) for name, g in gradient.items() if g.requires_grad}


def _differentiate(edges: dict[str, GradientEdge], leaves: Tensors, along: Mapping[str, Tensor]) -> None:
    """Add d<along, gradient>/dw to the leaves' ``.grad``; a gradient that is constant in w has no edge and adds
    nothing.
    """
    if not edges:
        return
    try:
        torch.autograd.backward(list(edges.values()), [along[name] for name in edges], inputs=list(leaves.values()))
    except (FlowError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:  # of which NotImplementedError is one
        raise FlowError(
            f"the gradient cannot be differentiated ({str(error).partition(chr(10))[0]}): take a method that needs no "
            "second derivative, such as snip or snap, or write that operation with others"
        ) from error


def _take_gradients(leaves: Tensors, used: bool) -> Tensors:
    """Take what has gathered in ``.grad``; where nothing has, complain (``used``) or give zeros."""
    if used:
        _check_used([name for name, leaf in leaves.items() if leaf.grad is None])
    taken = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    return {name: t.detach() for name, t in taken.items()}


def _detach_values(gradient: Tensors) -> Tensors:
    return {name: g.detach() for name, g in gradient.items()}


def _copy_values(gradient: Tensors) -> Tensors:
    """Their values, which may be changed: the graph keeps its own."""
    return {name: g.detach().clone() for name, g in gradient.items()}


def _check_used(unused: list[str]) -> None:
    if unused:
        raise FlowError(
            f"the loss does not depend on {_list_names(unused)}: remove it from the model, or leave it out of the "
            f"scoring "
            "with requires_grad_(False)"
        )


def _check_finite(derivative: Tensors, kind: str) -> Tensors:
    bad = [name for name, t in derivative.items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise FlowError(
            f"the {kind} of {_list_names(bad)} is not finite: check the loss and the batches for NaN or infinity"
        )
    return derivative


def _check_scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise FlowError(f"the loss must be a scalar tensor, and is {shape}: reduce it with .mean() or .sum()")
    if not bool(torch.isfinite(value)):
        raise FlowError(f"the loss is {value.item()}: it cannot be differentiated")
    if not value.requires_grad:
        raise FlowError("the loss does not depend on any parameter: does it run the model it is given, with gradients?")
    return value.reshape(())


def _check_direction(direction: Mapping[str, Tensor], leaves: Tensors) -> Mapping[str, Tensor]:
    wrong = [n for n, leaf in leaves.items() if n not in direction or direction[n].shape != leaf.shape]
    if wrong:
        raise ValueError(f"the direction must have a tensor of the parameter's shape for {_list_names(wrong)}")
    return direction


def _list_names(names: list[str], most: int = 5) -> str:
    quoted = ", ".join(f"'{n}'" for n in names[:most])
    return f"{quoted} and {len(names) - most} more" if len(names) > most else quoted
