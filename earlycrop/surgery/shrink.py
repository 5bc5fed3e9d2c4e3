"""Remove nodes from a network and its optimizers in place, with a certificate that nothing else changed.

The certificate compares the small network with the masked dense one: the dense network with the outgoing weights of the
removed nodes at zero. Both return the same output, or the cut is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.types import NodeIndices, NodeMask
from earlycrop.saving.models import record_dense_shapes
from earlycrop.saving.pretrained import patch_save_pretrained
from earlycrop.surgery.certificate import (
    MAX_ROUNDING,
    Certificate,
    OutputMismatchError,
    compare_outputs,
    reference_outputs,
)
from earlycrop.surgery.optimizers import check_optimizers, cut_states, snapshot_optimizer, swap_parameters
from earlycrop.surgery.parameter_objects import keep_parameter_objects
from earlycrop.surgery.slicing import KeptIndices, Swap, cut_module, kept_indices
from earlycrop.utils.caller import warn
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.copies import copy_module
from earlycrop.utils.distributed import ProcessGroup, check_same_removal, fail_together
from earlycrop.utils.errors import SurgeryError, raise_if_out_of_memory
from earlycrop.utils.modules import flatten_recurrent_weights, tensors_by_name
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.validation import check_type
from earlycrop.utils.wrappers import process_group_of, rewrap_message, tensor_shapes, unwrap, unwrap_ema_models


@dataclass(frozen=True)
class Cut:
    """The result of a cut.

    Attributes:
        nodes: The number of nodes that were removed.
        weights_before: The number of entries in weight matrices before the cut.
        weights_after: The same after the cut.
        difference: The certificate: max |small - masked| / max |masked|, the worst over the outputs on the example and
            on noise. None if it was not asked for.
        caveats: What weakens the certificate, a sentence each, such as noise that proved nothing or outputs in half
            precision. Empty for a full certificate.
    """

    nodes: int
    weights_before: int
    weights_after: int
    difference: float | None
    caveats: tuple[str, ...] = ()


def shrink(
    model: nn.Module,
    graph: Graph,
    remove: NodeIndices,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    certify: bool = True,
    ema_models: nn.Module | Sequence[nn.Module] = (),
    group: ProcessGroup = None,
) -> Cut:
    """Remove nodes from a model in place, with their entries in parameters, buffers, gradients and optimizer state.

    The ``Parameter`` objects stay the same, so that lists of parameters made before the cut see the small tensors.
    Tied weights stay tied, and the size attributes of torch's modules (``out_features``) are updated. Call ``backward``
    before the cut: a graph that was built before it keeps the old tensors, and its gradients do not reach the
    parameters. If the model is compiled or wrapped (``DistributedDataParallel``), the network inside is cut, and a
    warning says what must be wrapped again.

    The certificate runs the small network and the masked dense one in evaluation mode, once on the graph's example and
    once on normal noise in place of the floating tensors that the model is called with. The noise has their mean,
    standard deviation and range; integers stay. The relative difference may be up to 1e-5 in float32 and 1e-10 in
    float64. Parameters and inputs in half precision are cast up to float32, and autocast is off. If the model does not
    run like that, outputs in half precision may differ by 5e-2, and ``Cut.caveats`` says so. A difference above the
    tolerance and up to 1e-3 may be rounding (long sums, deep networks): both networks then run in float64, the
    difference there counts, and ``Cut.caveats`` says so.

    On the entries that are kept, the optimizer's next step is that of the masked dense network, whose removed entries
    have neither gradient nor state. There are three exceptions. Adafactor scales the step of a parameter by the root
    mean square of its entries, and Muon by its number of rows and columns, which are those of the small network. LBFGS
    can only be cut without state.

    Args:
        model: The model.
        graph: Its graph, traced on the model as it is now.
        remove: Indices into ``graph.nodes``, in any iterable, numpy array or tensor of integers.
        optimizer: All optimizers that train the model, one or several.
        certify: Whether to compute the certificate.
        ema_models: Modules that hold the same network with other values (``torch.optim.swa_utils.AveragedModel``). They
            are cut at the same places.
        group: The processes that train the model, where they are not those of ``DistributedDataParallel``. After an
            error in one process, none of them is cut.

    Returns:
        What was removed, and the certificate.

    Raises:
        TypeError: The graph is not a graph, an optimizer is not an optimizer, or an EMA model not a module.
        ValueError: An index is not a node, the cut would empty a layer, the graph, an optimizer or an EMA model is not
            the model's, or the parameters are sharded.
        SurgeryError: The certificate failed, or an optimizer has state that cannot be cut (in 8 bits, say).
            After any error, the model, EMA models and optimizers are as before.
    """
    check_type("the graph", graph, Graph, "give what earlycrop.trace(model, example) returned")
    group = process_group_of(model) if group is None else group
    network, removed = unwrap(model), graph.mask(remove)
    check_same_removal([removed], group)
    keep = kept_indices(graph, removed)
    if tensor_shapes(network) != graph.shapes:
        raise ValueError("the graph is not this model's, or the model was cut since: trace it again")
    modules = [network, *unwrap_ema_models(ema_models, network, graph.shapes)]
    for module in modules:
        _check_cuttable(module, keep)
    check_optimizers(network, optimizer)
    weights = graph.cost("weights")
    if not removed.any():
        return Cut(0, weights, weights, 0.0 if certify else None)
    cut = partial(_cut_modules, modules, graph, removed, flatten_optimizers(optimizer))
    with outside_inference_mode(), ExitStack() as undo_stack:
        with fail_together(group, SurgeryError):
            try:
                certificate, swaps, undo = cut(torch.float32 if certify else None)
            except OutputMismatchError as mismatch:
                certificate, swaps, undo = _repeat_in_float64(cut, mismatch)
            undo_stack.push(undo)
        undo_stack.pop_all()
    problem = keep_parameter_objects(swaps, flatten_optimizers(optimizer))
    for module in modules:
        flatten_recurrent_weights(module)
        patch_save_pretrained(module)
        record_dense_shapes(module, graph.shapes)
    if message := rewrap_message(model):
        warn(message)
    elif problem:
        advice = (
            "make lists of parameters again, such as list(model.parameters()) for clip_grad_norm_, because lists made "
            "before it hold the old parameters"
        )
        warn(f"the model's parameters are new objects after this cut ({problem}): {advice}")
    return Cut(int(removed.sum()), weights, graph.cost("weights", removed), *certificate)


_Outcome: TypeAlias = tuple[Certificate, list[Swap], ExitStack]
"""The certificate of a cut, what it replaced in each module, and what undoes it."""


def _cut_modules(
    modules: list[nn.Module], graph: Graph, removed: NodeMask, optimizers: list[Optimizer], dtype: torch.dtype | None
) -> _Outcome:
    """Cut modules and optimizers. With a ``dtype``, certify the cut in that precision.

    Args:
        modules: The network, then the EMA models.
        graph: The graph of the network.
        removed: The nodes to remove.
        optimizers: All optimizers, with those that they wrap.
        dtype: The ``precision`` of :func:`earlycrop.surgery.outputs.reproducible_runs`; None for no certificate.

    Returns:
        The certificate, what was replaced, and what undoes the cut. After an error, it is undone here.
    """
    network, keep, tensors = modules[0], kept_indices(graph, removed), tensors_by_name(modules[0])
    states = [cut_states(o, tensors, keep) for o in optimizers]
    certificate: Certificate = (None, ())
    if dtype is not None:
        reference = reference_outputs(network, graph, removed, dtype)
    with ExitStack() as stack:
        swaps = []
        for module in modules:
            swaps.append(cut_module(module, keep, graph.sizes(removed)))
            stack.callback(swaps[-1].undo)
        if dtype is not None:
            certificate = compare_outputs(network, graph, reference)
        for optimizer, state in zip(optimizers, states, strict=True):
            stack.callback(snapshot_optimizer(optimizer))
            swap_parameters(optimizer, swaps[0], state)
        return certificate, swaps, stack.pop_all()


def _repeat_in_float64(cut: Callable[[torch.dtype], _Outcome], mismatch: OutputMismatchError) -> _Outcome:
    """Cut in float64 where the difference may be rounding; raise ``mismatch`` if it is not."""
    if mismatch.difference > MAX_ROUNDING:
        raise mismatch
    try:
        (difference, caveats), swaps, undo = cut(torch.float64)
    except Exception as error:
        raise_if_out_of_memory(error)
        raise mismatch from None
    rounding = f"it was made in float64: in less, rounding makes a difference of {mismatch.difference:.2g}"
    return (difference, (*caveats, rounding)), swaps, undo


def find_uncertified(model: nn.Module, graph: Graph, remove: Iterable[int]) -> dict[Group, str]:
    """Find the coupled layers whose part of a cut fails its certificate. Parts are cut on copies of the model.

    Args:
        model: The model, which is not changed.
        graph: Its graph.
        remove: Indices into ``graph.nodes``, in any iterable, numpy array or tensor of integers.

    Returns:
        The error message by group of coupled layers.
    """
    nodes = set(remove)
    failing: dict[Group, str] = {}
    pending = [[group for group, members in graph.groups.items() if nodes & set(members)]]
    while pending:
        groups = pending.pop()
        try:
            shrink(copy_module(model), graph, [i for g in groups for i in graph.groups[g] if i in nodes])
        except SurgeryError as error:
            if len(groups) == 1:
                failing[groups[0]] = str(error)
            else:
                middle = len(groups) // 2
                pending += [groups[middle:], groups[:middle]]
    return failing


def _check_cuttable(module: nn.Module, keep: KeptIndices) -> None:
    """Raise ValueError if the cut would empty a tensor or lose its hooks."""
    tensors = tensors_by_name(module)
    for name, dims in keep.items():
        emptied = [d for d, index in dims.items() if index.numel() == 0]
        if emptied:
            raise ValueError(f"the cut would leave nothing of dimension {emptied[0]} of '{name}': keep one node")
        if getattr(tensors[name], "_post_accumulate_grad_hooks", None) or tensors[name]._backward_hooks:
            hooks = "hooks that a cut would lose (masks of an unstructured pruning, or your own)"
            raise ValueError(f"'{name}' has {hooks}: release them first")
