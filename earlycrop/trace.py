"""Watch one forward run of a network, and tell which indices of which parameters live and die together.

The network is copied and run on fake tensors, which have shapes and no memory. Channel identities enter with the
parameters and flow through the ATen operations (``_rules``); operations that combine two channels join them. A class of
joined channels that something produces and something consumes is a node. Nothing knows any architecture.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from earlycrop import _rules
from earlycrop._cut import cut_module, keep_of
from earlycrop._fields import Field
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
    fake: FakeTensorMode | None = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        graph, copied = _watched(model, run, example, fake)
    except TraceError:  # a forward that looks at values (.item(), .numpy(), if mask.all()) needs real ones
        fake = None
        graph, copied = _watched(model, run, example, fake)
    return _without_fixed_sizes(graph, copied, run, fake)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every operation to the rules."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace != "prim":
            self.watch.operation = str(func.overloadpacket).removeprefix("aten.")
            results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
            _rules.apply(self.watch, func, args, kwargs, results)
        return result


@contextmanager
def _faked(fake: FakeTensorMode | None) -> Iterator[None]:
    if fake is None:
        yield
    else:
        with fake:
            yield


def _watched(
    model: nn.Module, run: Callable[[nn.Module], Any], example: Any, fake: FakeTensorMode | None
) -> tuple[Graph, nn.Module]:
    watch = Watch()
    copied = _copied(model, fake)
    with _faked(fake), torch.no_grad(), plain_kernels(model):
        names = {id(m): name for name, m in copied.named_modules()}
        slots: dict[str, list[Field | None]] = {}
        parameters = dict(copied.named_parameters())
        held = tensors(copied)  # before the run, which may fill a buffer
        for name, t in held.items():
            if t.is_floating_point() or t.is_complex():
                slots[name] = watch.enter(t, weight=name in parameters)
        parents = {id(m) for m in copied.modules() if m._parameters}
        with _module_names(watch, names, copied) as called, _Watcher(watch):
            try:
                with _quiet():
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
            if uncalled := parents - called:
                _watch_training(watch, copied, run, uncalled)
    return solved(watch, slots, held, frozenset(parameters), example), copied


def _watch_training(watch: Watch, copied: nn.Module, run: Callable[[nn.Module], Any], uncalled: set[int]) -> None:
    """Watch a run in training mode as well: some modules (an auxiliary head, say) are used only then.

    Where it fails, those modules stay whole; which channels they would have used cannot be known.
    """
    work = list(watch.work)  # a network's work is that of its evaluation
    modes = [(m, m.training) for m in copied.modules()]
    try:
        copied.train()
        with _quiet():
            run(copied)
    except Exception as error:
        watch.operation = type(error).__name__
        unseen = [p for m in copied.modules() if id(m) in uncalled for p in m.parameters(recurse=False)]
        for p in unseen:
            watch.freeze(watch.fields(p), "it is not used in evaluation mode, and the run in training mode failed")
    finally:
        watch.work[:] = work
        for m, training in modes:
            m.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of operations that fail on fake tensors: here a failure is an answer."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _copied(model: nn.Module, fake: FakeTensorMode | None) -> nn.Module:
    """A copy in evaluation mode, whose parameters and buffers are fakes: nothing of their size is allocated."""
    memo: dict[int, Any] = {}
    try:
        if fake is not None:
            for t in (*model.parameters(), *model.buffers()):
                like = fake.from_tensor(t.detach())
                memo[id(t)] = nn.Parameter(like, t.requires_grad) if isinstance(t, nn.Parameter) else like
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise TraceError(
            f"the model cannot be copied ({type(error).__name__}: {error}): take out of its attributes what "
            "copy.deepcopy does not copy"
        ) from error


@contextmanager
def _module_names(watch: Watch, names: dict[int, str], root: nn.Module) -> Iterator[set[int]]:
    """Keep ``watch.module`` at the module that is running, and freeze what the whole model returns.

    Gives the ids of the modules that have been called so far.
    """
    stack: list[str] = []
    called: set[int] = set()

    def enter(module: nn.Module, inputs: Any) -> None:
        called.add(id(module))
        stack.append(names.get(id(module), ""))
        watch.module = stack[-1]

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()
        watch.module = stack[-1] if stack else ""
        if module is root:
            _freeze_outputs(watch, output)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _freeze_outputs(watch: Watch, output: Any) -> None:
    watch.operation = "return"
    for t in tensors_in(output):
        watch.freeze(watch.fields(t), Graph.OUTPUT)


def _without_fixed_sizes(
    graph: Graph, copied: nn.Module, run: Callable[[nn.Module], Any], fake: FakeTensorMode | None
) -> Graph:
    """Freeze the nodes whose removal makes the forward fail: a size is written into it somewhere.

    One node of every coupled group of layers is cut from the copy, which is run; where that fails, halves are tried.
    """
    several = [ids for ids in graph.groups.values() if len(ids) > 1]
    failing: list[tuple[tuple[int, ...], str]] = []

    def search(suspects: list[tuple[int, ...]]) -> None:
        message = _fails(graph, copied, [ids[0] for ids in suspects], run, fake)
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
    graph: Graph, copied: nn.Module, remove: list[int], run: Callable[[nn.Module], Any], fake: FakeTensorMode | None
) -> str | None:
    """Cut the copy, run it, put it back; what went wrong."""
    with _faked(fake), torch.no_grad(), plain_kernels(copied):
        swap = cut_module(copied, keep_of(graph, graph.mask(remove)))
        try:
            with _quiet():
                run(copied)
        except Exception as error:  # whatever a forward raises when a size is not what it was
            return str(error).partition("\n")[0]
        finally:
            swap.undo()
    return None
