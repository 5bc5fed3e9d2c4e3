"""Watch one forward run of a network, and tell which indices of which parameters live and die together.

The network is copied and run on fake tensors, which have shapes and no memory. Channel identities enter with the
parameters and flow through the ATen operations (``_rules``); operations that combine two channels join them. A class of
joined channels that something produces and something consumes is a node. Nothing knows any architecture.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from earlycrop import _rules
from earlycrop._cut import cut_module, keep_of
from earlycrop._fields import Field
from earlycrop._meta import Weightless, hollow, on_shapes
from earlycrop._modules import call, plain_kernels, tensors, tensors_in
from earlycrop._solve import solved
from earlycrop._watch import Reason, Watch
from earlycrop.graph import Graph


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
    run = partial(call, example=example)
    device = next((t.device for t in tensors(model).values()), torch.device("cpu"))
    real = False
    try:
        graph, copied = _watched(model, run, example, real, device)
    except TraceError:  # a forward that looks at values (.item(), .numpy(), if mask.all()) needs real ones
        real = True
        graph, copied = _watched(model, run, example, real, device)
    return _without_fixed_sizes(graph, copied, run, real, device)


class _Watcher(Weightless):  # type: ignore[no-untyped-call]
    """Shows every operation to the rules."""

    def __init__(self, watch: Watch, real: bool) -> None:
        super().__init__(real)
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run(func, args, kwargs)
        self.watch.operation = func._schema.name.removeprefix("aten::")
        results = [result] if isinstance(result, Tensor) else [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        _rules.apply(self.watch, func, args, kwargs, results)
        return result


def _watched(
    model: nn.Module, run: Callable[[nn.Module], Any], example: Any, real: bool, device: torch.device
) -> tuple[Graph, nn.Module]:
    watch = Watch()
    copied = _copied(model, real)
    with plain_kernels(model):
        names = {id(m): name for name, m in copied.named_modules()}
        slots: dict[str, list[Field | None]] = {}
        parameters = dict(copied.named_parameters())
        held = tensors(copied)  # before the run, which may fill a buffer
        for name, t in held.items():
            if t.is_floating_point() or t.is_complex():
                slots[name] = watch.enter(t, weight=name in parameters)
        _freeze_attention(watch, copied)
        with _module_names(watch, names, copied), on_shapes(_Watcher(watch, real), device):
            try:
                output = run(copied)
            except Exception as error:
                raise TraceError(
                    f"the model fails on the example ({type(error).__name__}: {error}): call it the same way without "
                    "earlycrop to see where"
                ) from error
            _freeze_outputs(watch, output)
            if not watch.work:
                raise TraceError(
                    "the example multiplied nothing with a weight of the model: if it is a callable, does it run the "
                    "model that it is given?"
                )
            if unused := [name for name, p in parameters.items() if id(p) not in watch.seen]:
                _watch_training(watch, copied, run, unused)
    return solved(watch, slots, held, frozenset(parameters), example), copied


def _watch_training(watch: Watch, copied: nn.Module, run: Callable[[nn.Module], Any], unused: list[str]) -> None:
    """Watch a run in training mode as well: some parameters (an auxiliary head's) are used only then.

    Where it fails, those stay whole; which channels they would have used cannot be known.
    """
    work = list(watch.work)  # a network's work is that of its evaluation
    modes = [(m, m.training) for m in copied.modules()]
    try:
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
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise TraceError(
            f"the model cannot be copied ({type(error).__name__}: {error}): take out of its attributes what "
            "copy.deepcopy does not copy"
        ) from error


@contextmanager
def _module_names(watch: Watch, names: dict[int, str], root: nn.Module) -> Iterator[None]:
    """Keep ``watch.module`` at the module that is running, and freeze what the whole model returns."""
    stack: list[str] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        stack.append(names.get(id(module), ""))
        watch.module = stack[-1]

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()
        watch.module = stack[-1] if stack else ""
        if module is root:
            _freeze_outputs(watch, output)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
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
            watch.module = name
            whole = (m.in_proj_weight, m.q_proj_weight)
            rows = (m.k_proj_weight, m.v_proj_weight)
            watch.freeze([f for t in whole if t is not None for f in watch.fields(t)], why)
            watch.freeze([watch.vector(t, 0) for t in rows if t is not None], why)
            watch.freeze([watch.vector(m.out_proj.weight, 1)], why)
    watch.module = ""


def _freeze_outputs(watch: Watch, output: Any) -> None:
    watch.operation = "return"
    for t in tensors_in(output):
        watch.freeze(watch.fields(t), Graph.OUTPUT)


def _without_fixed_sizes(
    graph: Graph, copied: nn.Module, run: Callable[[nn.Module], Any], real: bool, device: torch.device
) -> Graph:
    """Freeze the nodes whose removal makes the forward fail: a size is written into it somewhere.

    One node of every coupled group of layers is cut from the copy, which is run; where that fails, halves are tried.
    """
    several = [ids for ids in graph.groups.values() if len(ids) > 1]
    failing: list[tuple[tuple[int, ...], str]] = []

    def search(suspects: list[tuple[int, ...]]) -> None:
        message = _fails(graph, copied, [ids[0] for ids in suspects], run, real, device)
        if message is None:
            return
        if len(suspects) == 1:
            failing.append((suspects[0], message))
            return
        half = len(suspects) // 2
        search(suspects[:half])
        search(suspects[half:])

    if several:
        search(several)
    return graph.without(
        {i: Reason("trial cut", "", f"a size is written into it: {m}") for ids, m in failing for i in ids}
    )


def _fails(
    graph: Graph,
    copied: nn.Module,
    remove: list[int],
    run: Callable[[nn.Module], Any],
    real: bool,
    device: torch.device,
) -> str | None:
    """Cut the copy, run it, put it back; what went wrong."""
    keep = keep_of(graph, graph.mask(remove))
    with plain_kernels(copied), on_shapes(Weightless(real), device):
        swap = cut_module(copied, keep)
        try:
            run(copied)
        except Exception as error:  # whatever a forward raises when a size is not what it was
            return str(error).partition("\n")[0]
        finally:
            swap.undo()
    return None
