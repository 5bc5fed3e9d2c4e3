"""Trace a network: run it once, and find which indices of which parameters can only be removed together.

A copy of the network runs on shapes alone. Each dimension of a parameter has channels, which flow through the ATen
operations; an operation that combines two channels joins them. A class of joined channels that a parameter produces and
another one consumes is a node. Nothing here knows any architecture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels
from earlycrop.scoring.loss_terms import named_terms
from earlycrop.tracing.batches import batch_form, run_batches
from earlycrop.tracing.coupling import AxisChannels, build_graph, coupled_classes, multiplicity
from earlycrop.tracing.module_calls import ModuleCallRecorder, freeze_outputs
from earlycrop.tracing.recorder import ChannelRecorder, ScalarArgs
from earlycrop.tracing.recording_mode import RecordingMode
from earlycrop.tracing.rules import table
from earlycrop.tracing.trial_cut import Trials
from earlycrop.tracing.unmet import freeze_around_unmet, uncalled_layers, unmet_parameters
from earlycrop.tracing.validate import freeze_failing_nodes
from earlycrop.utils.contexts import differentiable_kernels
from earlycrop.utils.copies import copy_module
from earlycrop.utils.errors import TraceError, raise_if_out_of_memory
from earlycrop.utils.meta import meta_like, shapes_only
from earlycrop.utils.modules import call_model, tensors_by_name
from earlycrop.utils.random_states import preserve_random_states
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import check_network
from earlycrop.utils.wrappers import unwrap

_log = logging.getLogger(__name__)


def trace(model: nn.Module, example: Any) -> Graph:
    """Find the nodes of a network: the indices of its parameters that can only be removed together.

    The run is in evaluation mode on a copy without memory, or on a real copy if the forward reads values. The model and
    all random states stay as they are. What cannot be cut is frozen with a reason, which ``Graph.report()`` lists.
    Trial cuts on the copy find sizes that are hard-coded in a forward, in training mode too if the example can run in
    it on shapes.

    Args:
        model: The network.
        example: What the model is called with: a tensor, a tuple of positional arguments, a dict of keyword arguments,
            or a callable that is given the model and runs it, such as ``lambda model: loss(model, batch)``.

    Returns:
        The graph of the network.

    Raises:
        TraceError: If the model cannot be copied, or fails on the example.
        ValueError: If the model is a script of torch.jit, comes from torch.export, is sharded, or has parameters
            without a shape.
        TypeError: If the model is no module.
    """
    return _trace_runs(model, call_model, [example], {})


def trace_batches(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[Any],
    coupling: Mapping[tuple[str, int], ChannelLabels] | None = None,
) -> Graph:
    """Trace a network on the loss of several batches, which may run different parts of it.

    The first batch is traced, then each batch of another form: of other shapes, types or plain values such as a task's
    name. While some parameters have not been used, the other batches are traced as well. What no batch uses keeps all
    that it may consume, see :mod:`earlycrop.tracing.unmet`.

    Args:
        model: The network.
        loss: (model, batch) -> loss, or its terms.
        batches: The batches, at least one.
        coupling: Where the network was cut before: by tensor and dimension, numbers that are equal for indices that
            could only be removed together. A trace may not see it any more: the channels of a layer's last head look
            like those of any layer.

    Returns:
        The graph of the network.

    Raises:
        TraceError, ValueError, TypeError: As for :func:`trace`.
    """
    return _trace_runs(model, lambda m, batch: named_terms(loss(m, batch)), batches, coupling or {})


Run: TypeAlias = Callable[[nn.Module, Any], Any]
"""Runs a network on a batch."""


def _trace_runs(
    model: nn.Module, run: Run, batches: Sequence[Any], coupling: Mapping[tuple[str, int], ChannelLabels]
) -> Graph:
    _log.debug("tracing")
    with preserve_random_states():
        check_network(model)
        model = unwrap(model)
        try:
            return _trace(model, run, batches, coupling, real=False)
        except TraceError:  # a forward that reads values (.item(), .numpy(), if mask.all()) needs real ones
            _log.debug("tracing on real values")
            return _trace(model, run, batches, coupling, real=True)


def _trace(
    model: nn.Module, run: Run, batches: Sequence[Any], coupling: Mapping[tuple[str, int], ChannelLabels], real: bool
) -> Graph:
    device = next((t.device for t in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    network = _copy_model(model, real)
    recorder = ChannelRecorder()
    parameters = dict(network.named_parameters())
    tensors = tensors_by_name(network)  # before the run, which may fill a buffer
    channels = {
        name: recorder.add_tensor(t, weight=name in parameters)
        for name, t in tensors.items()
        if t.is_floating_point() or t.is_complex()
    }
    _join_coupled(recorder, channels, coupling)
    _freeze_attention(recorder, network)
    module_calls = ModuleCallRecorder(network)
    with differentiable_kernels(model):
        mode = RecordingMode(recorder, device, real)
        with module_calls.record(recorder, keep_calls=not real), shapes_only(mode):
            traced = _record_evaluation(recorder, network, run, batches)
            run_all = partial(run_batches, run=run, batches=traced)
            scalars = list(recorder.scalars)
            unmet = unmet_parameters(recorder, network)
            if unmet and _record_training(recorder, network, run_all, unmet):
                unmet = unmet_parameters(recorder, network)
        uncalled = uncalled_layers(unmet, module_calls.called)
        if uncalled:
            freeze_around_unmet(recorder, module_calls, uncalled, partial(run_all, network), mode)
        training_scalars = None if real else _record_training_scalars(module_calls, run_all, device)
        classes = coupled_classes(recorder)
        example = batches[0] if run is call_model else run_all
        graph = build_graph(recorder, classes, channels, tensors, frozenset(parameters), example)
        graph = replace(graph, uncalled=tuple(uncalled), unused=tuple(unmet))
        distinct = multiplicity(recorder, classes)
        _log.debug("trying cuts")
        samples = 3 if recorder.has_unequal_parts else 1  # a share that is rounded may fit one cut by chance
        trials = Trials(module_calls, run_all, real, device, classes, distinct, scalars, training_scalars, samples)
        return freeze_failing_nodes(graph, trials)


def _join_coupled(
    recorder: ChannelRecorder, channels: AxisChannels, coupling: Mapping[tuple[str, int], ChannelLabels]
) -> None:
    """Join the channels that were coupled before a cut."""
    for (name, dim), classes in coupling.items():
        vector = channels[name][dim] if name in channels else None
        if vector is not None and vector.size == classes.size:  # otherwise something else has changed the model
            _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
            recorder.join(vector, vector[first[inverse]])


def _record_evaluation(recorder: ChannelRecorder, network: nn.Module, run: Run, batches: Sequence[Any]) -> list[Any]:
    """Record runs in evaluation mode, and return the batches that used a parameter that none before them had used.

    The recorder keeps the costs of the first run, and the scalars of the runs that are returned.
    """
    traced: list[Any] = []
    forms: list[Any] = []
    for i, batch in enumerate(batches, start=1):
        form = batch_form(batch)
        if traced and form in forms and not unmet_parameters(recorder, network):
            continue
        forms.append(form)
        costs, scalars = list(recorder.cost_terms), len(recorder.scalars)
        before = unmet_parameters(recorder, network)
        try:
            output = run(network, batch)
        except Exception as error:
            raise_if_out_of_memory(error)
            where = "the example" if len(batches) == 1 else f"batch {i}"
            cause = f"the model fails on {where} ({type(error).__name__}: {error})"
            raise TraceError(f"{cause}: call it the same way without earlycrop to see where") from error
        freeze_outputs(recorder, output)
        if traced:
            recorder.cost_terms[:] = costs
        if not traced or unmet_parameters(recorder, network) != before:
            traced.append(batch)
        else:
            del recorder.scalars[scalars:]
    parameters = set(map(id, network.parameters()))
    if not parameters:
        raise TraceError("the model has no parameters, so nothing can be removed from it: give one that has")
    if not recorder.used_tensors & parameters:
        raise TraceError("the example (or the loss) uses no parameter: let it run the model that it is given")
    return traced


def _record_training(
    recorder: ChannelRecorder, network: nn.Module, run: Callable[[nn.Module], Any], unmet: list[str]
) -> bool:
    """Record a run in training mode as well, as some parameters (an auxiliary head's) are used only in it.

    If it fails, what these parameters are coupled with is unknown, and they are frozen.

    Returns:
        Whether it ran.
    """
    evaluation_cost = list(recorder.cost_terms)
    modes = [(m, m.training) for m in network.modules()]
    try:
        recorder.training = True
        network.train()
        run(network)
        return True
    except Exception as error:
        raise_if_out_of_memory(error)
        recorder.operation = type(error).__name__
        why = f"it is not used in evaluation mode, and the run in training mode failed: {error}"
        for name in unmet:
            recorder.freeze(recorder.labels(network.get_parameter(name)), why)
        return False
    finally:
        recorder.training = False
        recorder.cost_terms[:] = evaluation_cost
        for m, training in modes:
            m.training = training


def _record_training_scalars(
    module_calls: ModuleCallRecorder, run: Callable[[nn.Module], Any], device: torch.device
) -> list[ScalarArgs] | None:
    """Return the scalars that the network computes with in training mode, or None if it cannot run in it.

    It may need targets, more samples, or values to decide by.
    """
    recorder = ChannelRecorder()
    mode = RecordingMode(recorder, device, False, table.record_scalars)
    try:
        with module_calls.training_mode(), shapes_only(mode):
            run(module_calls.network)
    except Exception as error:  # whatever a forward raises
        raise_if_out_of_memory(error)
        _log.debug("not tried in training mode: %s", error)
        return None
    return recorder.scalars


def _copy_model(model: nn.Module, real: bool) -> nn.Module:
    """Return a copy in evaluation mode, whose floating-point parameters and buffers have no memory unless ``real``.

    Buffers of integers (tables of indices, masks) stay real, so that the tracer can follow what they move.
    """
    tensors = () if real else tensors_by_name(model).values()
    try:
        memo = {id(t): meta_like(t) for t in tensors if t.is_floating_point() or t.is_complex()}
        return copy_module(model, memo).eval()
    except Exception as error:
        raise_if_out_of_memory(error)
        cause = f"{type(error).__name__}: {error}"
        raise TraceError(f"the model cannot be copied ({cause}): remove what copy.deepcopy cannot copy") from error


def _freeze_attention(recorder: ChannelRecorder, network: nn.Module) -> None:
    """Freeze torch's own attention, which compares the widths of its input and its projections with ``embed_dim``."""
    recorder.operation = "nn.MultiheadAttention"
    why = "it insists on embed_dim, and can lose neither heads nor width: project and attend with layers of your own"
    for name, m in network.named_modules():
        if isinstance(m, nn.MultiheadAttention):
            recorder.module_stack = [name]
            for t in (m.in_proj_weight, m.q_proj_weight):
                recorder.freeze(recorder.labels(t), why)
            rows = [recorder.labels_along(t, 0) for t in (m.k_proj_weight, m.v_proj_weight)]
            recorder.freeze([*rows, recorder.labels_along(m.out_proj.weight, 1)], why)
    recorder.module_stack = []
