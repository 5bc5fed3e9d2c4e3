"""Cut nodes out of a module and its optimizers, in place, and prove that nothing else changed.

The oracle is the masked dense network: the same network with the removed nodes' outgoing weights at zero. Both give the
same output, or the cut is taken back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.types import NodeIndices, NodeMask
from earlycrop.saving import patch_save_pretrained
from earlycrop.surgery.certificate import (
    MAX_ROUNDING,
    OutputMismatchError,
    Reference,
    compare_outputs,
    reference_outputs,
)
from earlycrop.surgery.optimizers import check_optimizers, cut_states, snapshot_optimizer, swap_parameters
from earlycrop.surgery.slicing import KeptIndices, cut_module, kept_indices
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.distributed import ProcessGroup, check_same_removal, fail_together
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import tensors_by_name
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.wrappers import process_group_of, unwrap, unwrap_ema_models, warn_rewrap


@dataclass(frozen=True)
class Cut:
    """What a cut did.

    difference: the certificate, the worst of max |small - masked| / max |masked| over the outputs on the example and on
    noise; None if not asked for. caveats: what the certificate lacks, a sentence each: noise that proved nothing, or
    outputs in half precision. Empty for a full one.
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
    copies: nn.Module | Sequence[nn.Module] = (),
) -> Cut:
    """Remove nodes from ``model`` in place, with their entries in buffers, gradients and the optimizers' state.

    ``remove``: indices into ``graph.nodes``, in any iterable, numpy array or tensor of integers, of a graph traced on
    the model as it is now. Tied weights stay tied, and the sizes that torch's modules keep as attributes follow.
    ``optimizer``: all that train the model, one or several.
    ``copies``: modules that hold the same network with other values (a ``torch.optim.swa_utils.AveragedModel``), cut at
    the same places. Where the model is compiled or wrapped (``DistributedDataParallel``, ...), the network inside is
    cut, and a warning says what must be wrapped again.

    With ``certify``, the small network is run beside the masked dense one, in evaluation mode: on the graph's example,
    and once more with normal noise in the place of the floating tensors that the model is called with (of the same
    mean, spread and range; integers stay). The largest relative difference allowed is 1e-5 in float32 and 1e-10 in
    float64. Parameters and inputs in half precision are cast up to float32 for it, and autocast is off; where the model
    does not run like that, outputs in half precision are allowed 5e-2, and ``Cut.caveats`` says so. A difference of
    at most 1e-3 above what is allowed may be one of rounding (long sums, deep networks): both networks are then run in
    float64, the difference there is what counts, and ``Cut.caveats`` says so.

    The optimizers' next step is that of the masked dense network, whose removed entries have no gradient and no state,
    on every entry that is kept. Two of torch's scale a parameter's step by its size, and so do they here: Adafactor by
    the root mean square of its entries, Muon by its number of rows and columns. LBFGS is cut only without state.

    Raises:
        TypeError: an optimizer or a copy is none. ValueError: an index is no node, a layer would be emptied, the graph
        is not the model's, an optimizer or a copy is not, or the parameters are sharded. SurgeryError: an optimizer has
        state that cannot be cut (in 8 bits, say), or the certificate failed. After these and any other error, model,
        copies and optimizers are as they were.
    """
    cut = cut_in_all_processes(model, graph, remove, optimizer, certify, copies, process_group_of(model))
    if cut.nodes:
        warn_rewrap(model, stacklevel=2)
    return cut


def cut_in_all_processes(
    model: nn.Module,
    graph: Graph,
    remove: NodeIndices,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    certify: bool,
    copies: nn.Module | Sequence[nn.Module],
    group: ProcessGroup,
) -> Cut:
    """The same in all processes of ``group``, or, after an error in one of them, in none."""
    network = unwrap(model)
    removed = graph.mask(remove)
    check_same_removal([removed], group)
    keep = kept_indices(graph, removed)
    named = tensors_by_name(network)
    if {name: tuple(t.shape) for name, t in named.items()} != graph.shapes:
        raise ValueError("the graph is not this model's, or the model was cut since: trace it again")
    every = [network, *unwrap_ema_models(copies, network, graph.shapes)]
    for module in every:
        _check_cuttable(module, keep)
    check_optimizers(network, optimizer)
    before = graph.cost("weights")
    if not removed.any():
        return Cut(0, before, before, 0.0 if certify else None)
    with outside_inference_mode(), ExitStack() as taken_back:
        with fail_together(group, SurgeryError):
            difference, caveats = _cut_all(
                every, graph, removed, keep, flatten_optimizers(optimizer), certify, taken_back
            )
        taken_back.pop_all()
    for module in every:
        patch_save_pretrained(module)
    return Cut(int(removed.sum()), before, graph.cost("weights", removed), difference, caveats)


def _cut_all(
    every: list[nn.Module], graph: Graph, removed: NodeMask, keep: KeptIndices, optimizers: list[Optimizer], certify:
    bool, taken_back: ExitStack,
) -> tuple[float | None, tuple[str, ...]]:  # fmt: skip
    """Cut ``every`` module, the network first; what the certificate says. After an error all is as it was, and after
    ``taken_back`` has been left.
    """
    network, own = every[0], graph.sizes(removed)
    states = [cut_states(o, tensors_by_name(network), keep) for o in optimizers]

    def carried_out(expected: Reference | None) -> tuple[float | None, tuple[str, ...]]:
        with ExitStack() as here:
            swaps = []
            for module in every:
                swaps.append(cut_module(module, keep, own))
                here.callback(swaps[-1].undo)
            found = (None, ()) if expected is None else compare_outputs(network, graph, expected)
            for o, state in zip(optimizers, states, strict=True):
                here.callback(snapshot_optimizer(o))
                swap_parameters(o, swaps[0], state)
            taken_back.push(here.pop_all())
        return found

    try:
        return carried_out(reference_outputs(network, graph, removed) if certify else None)
    except OutputMismatchError as apart:
        if apart.difference > MAX_ROUNDING:
            raise
        try:
            difference, caveats = carried_out(reference_outputs(network, graph, removed, torch.float64))
        except Exception:
            raise apart from None
        told = f"it was made in float64: in less, rounding makes a difference of {apart.difference:.2g}"
        return difference, (*caveats, told)


def find_uncertified(model: nn.Module, graph: Graph, remove: Iterable[int]) -> dict[Group, str]:
    """The coupled layers whose part of a cut fails its certificate by itself, with what it says; tried on copies."""
    wanted = set(remove)
    failing: dict[Group, str] = {}

    def search(groups: list[Group]) -> None:
        try:
            shrink(copy.deepcopy(model), graph, [i for g in groups for i in graph.groups[g] if i in wanted])
        except SurgeryError as error:
            if len(groups) == 1:
                failing[groups[0]] = str(error)
                return
            search(groups[: len(groups) // 2])
            search(groups[len(groups) // 2 :])

    search([g for g, ids in graph.groups.items() if wanted & set(ids)])
    return failing


def _check_cuttable(module: nn.Module, keep: KeptIndices) -> None:
    """Raise ValueError where a cut would empty a tensor, or lose its hooks."""
    named = tensors_by_name(module)
    for name, dims in keep.items():
        emptied = [d for d, index in dims.items() if index.numel() == 0]
        if emptied:
            raise ValueError(
                f"the cut would leave nothing of dimension {emptied[0]} of '{name}': keep one of its nodes"
            )
        if getattr(named[name], "_post_accumulate_grad_hooks", None) or named[name]._backward_hooks:
            raise ValueError(
                f"'{name}' has hooks that a cut would lose (masks of an unstructured pruning, or your own): release "
                "them first"
            )
