"""Trial cuts: does the small network run, and does it still mean the same?

A forward may hold a size (``view(n, t, 4, -1)``, ``x[:, :8]``), which shows only once a channel is gone. So some nodes
of every group are cut out of the copy, and it is run on shapes once more, with the channels numbered by the classes
that the first run found: whoever joins two of them, or freezes one that is a node, has another network in mind. What to
make of a fault is decided in ``_settling``, and sizes in attributes of modules are found in ``_attributes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group, SizeAttribute
from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.surgery.slicing import cut_module, kept_indices
from earlycrop.tracing.labels import expand_labels
from earlycrop.tracing.module_calls import ModuleCall, ModuleCallRecorder, output_shapes, training_mode
from earlycrop.tracing.recorder import ChannelRecorder, ScalarArgs
from earlycrop.tracing.rules import table
from earlycrop.tracing.trial_check import Fault, TrialRecorder
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.meta import MetaMode, shapes_only, tensor_arguments
from earlycrop.utils.modules import tensors_by_name


class RecordingMode(MetaMode):  # type: ignore[no-untyped-call]
    """Shows every operation to the rules, or to another ``look``."""

    def __init__(
        self, watch: ChannelRecorder, device: torch.device, real: bool, look: Callable[..., None] = table.apply
    ) -> None:
        super().__init__(device, real)
        self.watch, self.look = watch, look
        watch.real = real

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensor_arguments(args, kwargs)
        result = self.run(func, args, kwargs, inputs)
        self.watch.done += 1
        results = [result] if isinstance(result, Tensor) else [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.look(self.watch, func, args, kwargs, inputs, results)
        return result


@dataclass(frozen=True)
class Trials:
    """The copy of a network, and how to run it or one of its modules again."""

    running: ModuleCallRecorder
    run: Callable[[nn.Module], Any]
    real: bool
    device: torch.device
    multiplicity: ChannelLabels
    numbers: list[ScalarArgs]
    """The plain numbers that the network reckons with."""
    trained: list[ScalarArgs] | None
    """Those in training mode, or None if it cannot be run in that on shapes."""
    sound: dict[str, bool] = field(default_factory=dict)
    steady: dict[tuple[str, bool], list[ScalarArgs | None]] = field(default_factory=dict)
    """By module ("" is the whole network), and whether in training mode, those of its plain numbers that it reckons
    with again when nothing is cut.
    """
    insides: dict[str, tuple[Graph, Graph]] = field(default_factory=dict)
    """By module, the graph that it was last tried in, and the part of that which concerns it."""

    @property
    def copied(self) -> nn.Module:
        return self.running.network

    @property
    def calls(self) -> dict[str, ModuleCall]:
        return self.running.calls

    def faults(
        self, graph: Graph, remove: Sequence[int], tested: Sequence[int], home: str = "",
        follows: tuple[SizeAttribute, ...] = (),
    ) -> list[Fault]:  # fmt: skip
        """Cut ``remove`` out of the copy, run ``home`` (all of it by default), put it back; what is wrong, and concerns
        the nodes ``tested``.

        All of it is then run in training mode as well, where a forward may hold other sizes: it must run, and reckon
        with the same numbers. Nothing else is asked of it: what training keeps of its statistics is no result.
        """
        module = self.copied.get_submodule(home)
        removed = graph.mask(remove)
        inside = self._inside(graph, home)
        inside = replace(inside, size_attributes=inside.size_attributes + _size_attributes_inside(follows, home))
        classes = np.zeros(self.multiplicity.size, bool)
        classes[graph.classes[graph.mask(tested)]] = True
        kept = np.append(~removed, True)
        alone = np.zeros_like(classes)
        for s in inside.axes:
            left = s.classes[kept[s.nodes]]
            if (left == left[0]).all():
                alone[left[0]] = True
        watch, training = TrialRecorder(classes, alone, self.multiplicity, self._expected(home, False)), False
        try:
            swap = cut_module(module, kept_indices(inside, removed), inside.sizes(removed))
        except SurgeryError as refused:
            return [Fault(0, (home,), Reason("trial cut", home, str(refused)))]
        try:
            _enter_labels(watch, inside, module, removed)
            found = self._found(watch, home, table.apply)
            if not found and not home and self.trained is not None:
                watch, training = TrialRecorder(classes, alone, self.multiplicity, self._expected(home, True)), True
                with training_mode(module):
                    found = self._found(watch, home, table.record_scalars)
        finally:
            swap.undo()
        if watch.reckons_otherwise and (home, training) not in self.steady:
            self.steady[home, training] = self._repeated(home, training)
            return self.faults(graph, remove, tested, home, follows)
        return found

    def _found(self, watch: TrialRecorder, home: str, look: Callable[..., None]) -> list[Fault]:
        with self.running.told(watch), shapes_only(RecordingMode(watch, self.device, self.real, look)):
            error = self._run(home, self.copied.get_submodule(home))
        if error is None:
            return watch.faults
        told = f"a size is written into it: {str(error).partition(chr(10))[0]}"
        return [*watch.faults, Fault(watch.done, tuple(watch.stack), Reason("trial cut", watch.module, told))]

    def _expected(self, home: str, training: bool) -> Sequence[ScalarArgs | None]:
        first = self.trained if training else self.calls[home].numbers if home else self.numbers
        return self.steady.get((home, training), first or [])

    def _repeated(self, home: str, training: bool) -> list[ScalarArgs | None]:
        """The plain numbers of the first run, None for those that differ from run to run (a loss may draw or count)."""
        watch, first = ChannelRecorder(), self._expected(home, training)
        mode = training_mode(self.copied) if training else nullcontext()
        with (
            mode,
            self.running.told(watch),
            shapes_only(RecordingMode(watch, self.device, self.real, table.record_scalars)),
        ):
            self._run(home, self.copied.get_submodule(home))
        again = [*watch.numbers, *[None] * len(first)]
        return [n if n == other else None for n, other in zip(first, again, strict=False)]

    def _run(self, home: str, module: nn.Module) -> Exception | None:
        try:
            if not home:
                self.run(module)
                return None
            call = self.calls[home]
            shapes = output_shapes(module(*call.arguments, **call.options))
        except Exception as error:  # whatever a forward raises when a size is not what it was
            return error
        if shapes != call.shapes:
            return ValueError(f"it returns tensors of the shapes {shapes} instead of {call.shapes}")
        return None

    def local(
        self, graph: Graph, group: Group, ids: tuple[int, ...], follows: tuple[SizeAttribute, ...]
    ) -> tuple[str, list[Fault]]:
        """The innermost module that holds a group and can be run again by itself, and the faults of a cut there."""
        common = common_module(group).split(".")
        remove = sample_nodes(graph, [ids])
        for n in range(len(common), -1, -1):
            name = ".".join(common[:n])
            if not name or (name in self.calls and self.calls[name].repeatable):
                faults = self.faults(graph, remove, ids, name, follows)
                if not faults or not name or self._sound(graph, name):
                    return name, faults
        raise AssertionError("the whole network can always be run")

    def _inside(self, graph: Graph, home: str) -> Graph:
        if not home:
            return graph
        if home not in self.insides or self.insides[home][0] is not graph:
            self.insides[home] = graph, _subgraph(graph, home)
        return self.insides[home][1]

    def _sound(self, graph: Graph, home: str) -> bool:
        if home not in self.sound:
            self.sound[home] = not self.faults(graph, [], [], home)
        return self.sound[home]


def _subgraph(graph: Graph, home: str) -> Graph:
    """The part of the graph that concerns a module, with names as that module has them."""
    start = f"{home}."
    slots = tuple(replace(s, tensor=s.tensor.removeprefix(start)) for s in graph.axes if s.tensor.startswith(start))
    return replace(graph, axes=slots, size_attributes=_size_attributes_inside(graph.size_attributes, home))


def _size_attributes_inside(follows: tuple[SizeAttribute, ...], home: str) -> tuple[SizeAttribute, ...]:
    if not home:
        return follows
    start = f"{home}."
    return tuple(
        replace(f, module=f.module[len(start) :], tensor=f.tensor.removeprefix(start))
        for f in follows
        if f"{f.module}.".startswith(start) and f.tensor.startswith(start)
    )


def _enter_labels(watch: TrialRecorder, graph: Graph, module: nn.Module, removed: NodeMask) -> None:
    """Give the small network's tensors channels of the classes that are left."""
    kept = np.append(~removed, True)
    held = tensors_by_name(module)
    fields: dict[str, list[ChannelLabels]] = {name: [] for name in held}
    slots = [s for s in graph.axes if s.tensor in held]
    for s, channels in zip(slots, watch.told([s.classes[kept[s.nodes]] for s in slots]), strict=True):
        fields[s.tensor].append(expand_labels(channels, s.dim, held[s.tensor].ndim))
    for name, t in held.items():
        watch.learn(t, fields[name], weight=isinstance(t, nn.Parameter))


def common_module(group: Group) -> str:
    """The path of the innermost module that holds a group."""
    common: list[str] = []
    for parts in zip(*(tensor.split(".")[:-1] for tensor, _ in group), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def sample_nodes(graph: Graph, groups: Iterable[tuple[int, ...]]) -> list[int]:
    """About a third of the nodes of each group, no two neighbours alike, such that no tensor is emptied."""
    rng = np.random.default_rng(0)
    removed = graph.mask(())
    touched: dict[tuple[str, int], None] = {}
    for ids in groups:
        removed[rng.choice(ids, max(1, len(ids) // 3), replace=False)] = True
        touched |= dict.fromkeys((tensor, dim) for tensor, dim, _ in graph.nodes[ids[0]].owns)
    for key in touched:
        nodes = graph.axis[key].nodes
        if nodes.min() >= 0 and removed[nodes].all():
            removed[nodes[0]] = False
    return removed.nonzero()[0].tolist()
