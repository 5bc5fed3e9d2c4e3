"""Watch one forward run of a network, and tell which indices of which parameters live and die together.

The network is copied and run on shapes alone (``_meta``). Channel identities enter with the
parameters and flow through the ATen operations (``_rules``); operations that combine two channels join them. A class of
joined channels that something produces and something consumes is a node. Nothing knows any architecture.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop._fields import Field
from earlycrop._meta import hollow, on_shapes
from earlycrop._modules import call, plain_kernels, tensors, tensors_in
from earlycrop._solve import solved
from earlycrop._trial import Call, Trials, Watcher, repeatable, settled, shapes_of
from earlycrop._watch import Watch
from earlycrop._wrappers import unwrapped
from earlycrop.graph import Graph

_log = logging.getLogger(__name__)


class TraceError(RuntimeError):
    """The network could not be run on the example."""


def trace(model: nn.Module, example: Any) -> Graph:
    """The nodes of ``model``: the indices of its parameters that can only be removed together.

    ``example`` is what the model is called with: a tensor, a tuple (positional), a dict (keywords), or a callable that
    is given the model and runs it, such as ``lambda model: loss(model, batch)``. The run is in evaluation mode, on a
    copy without memory; where the forward reads values, on a real copy. The model is not touched. What cannot be cut is
    frozen with a reason (``Graph.report()``), a size written into a forward included: a trial cut on the copy finds it.

    Raises:
        TraceError: the model cannot be copied, or fails on the example.
    """
    model = unwrapped(model)
    _log.debug("tracing")
    try:
        return _traced(model, example, real=False)
    except TraceError:  # a forward that looks at values (.item(), .numpy(), if mask.all()) needs real ones
        _log.debug("tracing on real values")
        return _traced(model, example, real=True)


def _traced(model: nn.Module, example: Any, real: bool) -> Graph:
    run = partial(call, example=example)
    device = next((t.device for t in tensors(model).values()), torch.device("cpu"))
    copied = _copied(model, real)
    watch = Watch()
    slots: dict[str, list[Field | None]] = {}
    parameters = dict(copied.named_parameters())
    held = tensors(copied)  # before the run, which may fill a buffer
    for name, t in held.items():
        if t.is_floating_point() or t.is_complex():
            slots[name] = watch.enter(t, weight=name in parameters)
    _freeze_attention(watch, copied)
    calls: dict[str, Call] = {}
    with plain_kernels(model), _told(copied, None if real else calls, watch), on_shapes(Watcher(watch, real), device):
        _watch_evaluation(watch, copied, run)
        numbers = list(watch.numbers)
        if unused := [name for name, p in parameters.items() if id(p) not in watch.seen]:
            _watch_training(watch, copied, run, unused)
    classes = watch.components()
    graph = solved(watch, classes, slots, held, frozenset(parameters), example)
    most = watch.multiplicity(classes)
    _log.debug("trying cuts")
    return settled(graph, Trials(copied, run, calls, partial(_told, copied, None), real, device, most, numbers))


def _watch_evaluation(watch: Watch, copied: nn.Module, run: Callable[[nn.Module], Any]) -> None:
    try:
        output = run(copied)
    except Exception as error:
        raise TraceError(
            f"the model fails on the example ({type(error).__name__}: {error}): call it the same way without earlycrop "
            "to see where"
        ) from error
    _freeze_outputs(watch, output)
    if not watch.seen & {id(p) for p in copied.parameters()}:
        raise TraceError(
            "the example multiplied nothing with a weight of the model: if it is a callable, does it run the model "
            "that it is given?"
        )


def _watch_training(watch: Watch, copied: nn.Module, run: Callable[[nn.Module], Any], unused: list[str]) -> None:
    """Watch a run in training mode as well: some parameters (an auxiliary head's) are used only then.

    Where it fails, those stay whole; which channels they would have used cannot be known.
    """
    work = list(watch.work)  # a network's work is that of its evaluation
    modes = [(m, m.training) for m in copied.modules()]
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
        watch.work[:] = work
        for m, training in modes:
            m.training = training


def _copied(model: nn.Module, real: bool) -> nn.Module:
    """A copy in evaluation mode. Unless it shall be ``real``, nothing of its weights' size is allocated.

    Buffers of whole numbers (tables of indices, masks) stay real: what they move can be followed.
    """
    memo: dict[int, Any] = {}
    try:
        for m in model.modules():  # most of a module is empty dicts of hooks, which deepcopy is slow at
            memo |= {id(v): type(v)() for v in vars(m).values() if type(v) in (dict, OrderedDict) and not v}
        if not real:
            held = (*model.parameters(), *model.buffers())
            memo |= {id(t): hollow(t) for t in held if t.is_floating_point() or t.is_complex()}
        for t in (t for m in model.modules() for t in _loose_tensors(m)):
            memo.setdefault(id(t), t.detach())
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise TraceError(
            f"the model cannot be copied ({type(error).__name__}: {error}): take out of its attributes what "
            "copy.deepcopy does not copy"
        ) from error


def _loose_tensors(module: nn.Module) -> list[Tensor]:
    """Results of an earlier run that a module keeps in its attributes: deepcopy refuses those that have a graph."""
    plain = [v for v in vars(module).values() if isinstance(v, Tensor | list | tuple)]
    return [t for t in tree_leaves(plain) if isinstance(t, Tensor) and t.grad_fn is not None]


@contextmanager
def _told(model: nn.Module, calls: dict[str, Call] | None, watch: Watch, home: str = "") -> Iterator[None]:
    """Tell the watch which modules run, freeze what the whole model returns, and keep each module's first call.

    ``home``: the module that is run, if it is not all of the model.
    """

    begun: list[int] = []

    def enter(name: str, module: nn.Module, arguments: Any, options: Any) -> None:
        watch.stack.append(name)
        begun.append(len(watch.numbers))

    def leave(name: str, module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        while watch.stack.pop() != name:  # those that failed, and whose error was caught
            begun.pop()
        since = begun.pop()
        if module is model:
            _freeze_outputs(watch, output)
        if calls is not None and name not in calls and repeatable((arguments, options)):
            calls[name] = Call(arguments, options, shapes_of(output), watch.numbers[since:])

    handles = []
    for name, module in model.get_submodule(home).named_modules(prefix=home):
        handles.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(leave, name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _freeze_attention(watch: Watch, model: nn.Module) -> None:
    """torch's own attention compares the width of its input, and of its projections, with ``embed_dim``."""
    watch.operation = "nn.MultiheadAttention"
    why = "it insists on embed_dim, and can lose neither heads nor width: project and attend with layers of your own"
    for name, m in model.named_modules():
        if isinstance(m, nn.MultiheadAttention):
            watch.stack = [name]
            whole = (m.in_proj_weight, m.q_proj_weight)
            rows = (m.k_proj_weight, m.v_proj_weight)
            watch.freeze([f for t in whole if t is not None for f in watch.fields(t)], why)
            watch.freeze([watch.vector(t, 0) for t in rows if t is not None], why)
            watch.freeze([watch.vector(m.out_proj.weight, 1)], why)
    watch.stack = []


def _freeze_outputs(watch: Watch, output: Any) -> None:
    watch.operation = "return"
    for t in tensors_in(output):
        watch.freeze(watch.fields(t), Graph.OUTPUT)
