"""Watch one forward run of a network, and tell which indices of which parameters live and die together.

The network is copied and run on shapes alone (``_meta``). Channel identities enter with the
parameters and flow through the ATen operations (``_rules``); operations that combine two channels join them. A class of
joined channels that something produces and something consumes is a node. Nothing knows any architecture.
"""

from __future__ import annotations

import copy
import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.coupling import build_graph, coupled_classes, multiplicity
from earlycrop.tracing.module_calls import ModuleCallRecorder, freeze_outputs, training_mode
from earlycrop.tracing.recorder import ChannelRecorder, ScalarArgs
from earlycrop.tracing.rules import table
from earlycrop.tracing.trial_cut import RecordingMode, Trials
from earlycrop.tracing.validate import freeze_failing_nodes
from earlycrop.utils.contexts import differentiable_kernels, preserve_python_random_states
from earlycrop.utils.errors import TraceError
from earlycrop.utils.meta import meta_like, shapes_only
from earlycrop.utils.modules import call_model, list_modules, parameters_by_name, tensors_by_name
from earlycrop.utils.validation import check_network
from earlycrop.utils.wrappers import unwrap

_SIMPLE = frozenset({bool, int, float, str})
_log = logging.getLogger(__name__)


def trace(model: nn.Module, example: Any) -> Graph:
    """The nodes of ``model``: the indices of its parameters that can only be removed together.

    ``example`` is what the model is called with: a tensor, a tuple (positional), a dict (keywords), or a callable that
    is given the model and runs it, such as ``lambda model: loss(model, batch)``. The run is in evaluation mode, on a
    copy without memory; where the forward reads values, on a real copy. The model is not touched, nor is any random
    state. What cannot be cut is frozen with a reason (``Graph.report()``), a size written into a forward included: a
    trial cut on the copy finds it, and in training mode too, where the example runs so on shapes.

    Raises:
        TraceError: the model cannot be copied, or fails on the example. ValueError: it is a script of torch.jit, comes
        from torch.export, is sharded, or has parameters without a shape. TypeError: it is no module.
    """
    return trace_after_cut(model, example, {})


def trace_after_cut(model: nn.Module, example: Any, together: Mapping[tuple[str, int], ChannelLabels]) -> Graph:
    """The same after a cut. ``together``: by tensor and dimension, numbers that are equal for indices that could only
    go together before it. A trace may not see so any more: the channels of a layer's last head are those of any layer.
    """
    _log.debug("tracing")
    with preserve_python_random_states(), _gc_disabled():
        check_network(model)
        model = unwrap(model)
        try:
            return _trace(model, example, together, real=False)
        except TraceError:  # a forward that looks at values (.item(), .numpy(), if mask.all()) needs real ones
            _log.debug("tracing on real values")
            return _trace(model, example, together, real=True)


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Without Python's cyclic garbage collector: next to nothing that a trace makes is garbage before its end, and each
    look through all that torch has imported takes longer than the trace of a small network.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _trace(model: nn.Module, example: Any, together: Mapping[tuple[str, int], ChannelLabels], real: bool) -> Graph:
    run = partial(call_model, example=example)
    device = next((t.device for t in tensors_by_name(model).values()), torch.device("cpu"))
    copied = _copy_model(model, real)
    watch = ChannelRecorder()
    slots: dict[str, list[ChannelLabels | None]] = {}
    trained = parameters_by_name(copied)
    held = tensors_by_name(copied)  # before the run, which may fill a buffer
    for name, t in held.items():
        if t.is_floating_point() or t.is_complex():
            slots[name] = watch.enter(t, weight=name in trained)
    for (name, dim), equal in together.items():
        vector = slots[name][dim] if name in slots else None
        if vector is not None and vector.size == equal.size:  # else something else has changed the model
            _, first, which = np.unique(equal, return_index=True, return_inverse=True)
            watch.join(vector, vector[first[which]])
    _freeze_attention(watch, copied)
    running = ModuleCallRecorder(copied)
    with differentiable_kernels(model):
        with running.told(watch, keep_calls=not real), shapes_only(RecordingMode(watch, device, real)):
            _record_evaluation(watch, copied, run)
            numbers = list(watch.numbers)
            if unused := [name for name, p in trained.items() if id(p) not in watch.seen]:
                _record_training(watch, copied, run, unused)
        trained_numbers = None if real else _scalars_in_training(running, run, device)
        classes = coupled_classes(watch)
        graph = build_graph(watch, classes, slots, held, frozenset(trained), example)
        most = multiplicity(watch, classes)
        _log.debug("trying cuts")
        return freeze_failing_nodes(graph, Trials(running, run, real, device, most, numbers, trained_numbers))


def _record_evaluation(watch: ChannelRecorder, copied: nn.Module, run: Callable[[nn.Module], Any]) -> None:
    try:
        output = run(copied)
    except Exception as error:
        raise TraceError(
            f"the model fails on the example ({type(error).__name__}: {error}): call it the same way without earlycrop "
            "to see where"
        ) from error
    freeze_outputs(watch, output)
    if not watch.seen & {id(p) for p in parameters_by_name(copied).values()}:
        raise TraceError(
            "the example multiplied nothing with a weight of the model: if it is a callable, does it run the model "
            "that it is given?"
        )


def _record_training(
    watch: ChannelRecorder, copied: nn.Module, run: Callable[[nn.Module], Any], unused: list[str]
) -> None:
    """Watch a run in training mode as well: some parameters (an auxiliary head's) are used only then.

    Where it fails, those stay whole; which channels they would have used cannot be known.
    """
    work = list(watch.cost_terms)  # a network's work is that of its evaluation
    modes = [(m, m.training) for _, m in list_modules(copied)]
    try:
        watch.training = True
        copied.train()
        run(copied)
    except Exception as error:
        watch.operation = type(error).__name__
        why = f"it is not used in evaluation mode, and the run in training mode failed: {error}"
        for name in unused:
            watch.freeze(watch.fields(copied.get_parameter(name)), why)
    finally:
        watch.cost_terms[:] = work
        for m, training in modes:
            m.training = training


def _scalars_in_training(
    running: ModuleCallRecorder, run: Callable[[nn.Module], Any], device: torch.device
) -> list[ScalarArgs] | None:
    """The plain numbers that the network reckons with in training mode, or None where it does not run in that: it may
    want targets, more samples, or random numbers to decide by.
    """
    watch = ChannelRecorder()
    try:
        with (
            training_mode(running.network),
            shapes_only(RecordingMode(watch, device, real=False, look=table.record_scalars)),
        ):
            run(running.network)
    except Exception as error:  # whatever a forward raises
        _log.debug("not tried in training mode: %s", error)
        return None
    return watch.numbers


def _copy_model(model: nn.Module, real: bool) -> nn.Module:
    """A copy in evaluation mode. Unless it shall be ``real``, nothing of its weights' size is allocated.

    Buffers of whole numbers (tables of indices, masks) stay real: what they move can be followed.
    """
    memo: dict[int, Any] = {}
    modules = [m for _, m in list_modules(model)]
    try:
        if not real:
            memo |= {
                id(t): meta_like(t) for t in tensors_by_name(model).values() if t.is_floating_point() or t.is_complex()
            }
        kinds = {kind: _plain(kind) for kind in {type(m) for m in modules}}
        plain = [m for m in modules if kinds[type(m)]]
        memo |= {id(m): type(m).__new__(type(m)) for m in plain}
        for m in modules:
            if not kinds[type(m)]:
                _detach(tuple(vars(m).values()), memo)
        for m in plain:
            fields = vars(memo[id(m)])
            for name, value in vars(m).items():
                fields[name] = value if value is None or type(value) in _SIMPLE else _copied_field(value, memo)
            fields.pop("_compiled_call_impl", None)
        copied = copy.deepcopy(model, memo)
        unchanged = (k.train is nn.Module.train and k.eval is nn.Module.eval for k in kinds)
        if not all(kinds.values()) or not all(unchanged):
            return copied.eval()
        for _, m in list_modules(copied):  # the same without torch's long way of setting an attribute
            vars(m)["training"] = False
        return copied
    except Exception as error:
        raise TraceError(
            f"the model cannot be copied ({type(error).__name__}: {error}): take out of its attributes what "
            "copy.deepcopy does not copy"
        ) from error


def _plain(kind: type[nn.Module]) -> bool:
    """Whether a copy of such a module is one of its ``__dict__``, and can be made faster than by deepcopy.

    torch's own modules complete pickles of earlier versions in their ``__setstate__``; an LSTM does more there.
    """
    ours = kind.__setstate__.__module__.startswith("torch.nn.modules.") and not issubclass(kind, nn.RNNBase)
    return (
        ours
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ in (object.__getstate__, getattr(nn.Module, "__getstate__", None))
        and kind.__new__ is object.__new__
        and not any(hasattr(kind, own) for own in ("__deepcopy__", "__slots__", "__getnewargs__", "__getnewargs_ex__"))
    )


def _copied_field(value: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy(value, memo)``, without its long way for what most fields of modules are."""
    kind = type(value)
    if kind in (dict, OrderedDict, set) and not value:
        return kind()
    if kind is dict and all(v is None or id(v) in memo for v in value.values()):  # parameters, buffers, modules
        return {k: None if v is None else memo[id(v)] for k, v in value.items()}
    if kind is tuple and all(type(v) in _SIMPLE for v in value):
        return value
    _detach((value,), memo)
    return copy.deepcopy(value, memo)


def _detach(values: tuple[Any, ...], memo: dict[int, Any]) -> None:
    """Let results of an earlier run that a module keeps in its attributes be copied: deepcopy refuses those that have a
    graph.
    """
    for t in tree_leaves([v for v in values if isinstance(v, Tensor | list | tuple)]):
        if isinstance(t, Tensor) and t.grad_fn is not None:
            memo.setdefault(id(t), t.detach())


def _freeze_attention(watch: ChannelRecorder, model: nn.Module) -> None:
    """torch's own attention compares the width of its input, and of its projections, with ``embed_dim``."""
    watch.operation = "nn.MultiheadAttention"
    why = "it insists on embed_dim, and can lose neither heads nor width: project and attend with layers of your own"
    for name, m in list_modules(model):
        if isinstance(m, nn.MultiheadAttention):
            watch.stack = [name]
            whole = (m.in_proj_weight, m.q_proj_weight)
            rows = (m.k_proj_weight, m.v_proj_weight)
            watch.freeze([f for t in whole if t is not None for f in watch.fields(t)], why)
            watch.freeze([watch.vector(t, 0) for t in rows if t is not None], why)
            watch.freeze([watch.vector(m.out_proj.weight, 1)], why)
    watch.stack = []
