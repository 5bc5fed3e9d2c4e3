"""Trial cuts: cut some nodes out of the copy of a network, run it again, and collect what is wrong.

A forward may have a hard-coded size (``view(n, t, 4, -1)``, ``x[:, :8]``), which shows only once a channel is gone. The
smaller network runs on shapes, with channels that are numbered by the classes of the first run. A forward that couples
two classes, or freezes one that is a node, means another network. ``validate`` decides what follows from a fault, and
``size_attributes`` finds sizes in attributes of modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute
from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.surgery.slicing import cut_module, kept_indices
from earlycrop.tracing.labels import expand_labels
from earlycrop.tracing.module_calls import ModuleCallRecorder, fits, output_shapes
from earlycrop.tracing.operation import Rule
from earlycrop.tracing.recorder import SPLIT, ChannelRecorder, ScalarArgs
from earlycrop.tracing.recording_mode import RecordingMode
from earlycrop.tracing.rules import table
from earlycrop.tracing.trial_check import REMOVED, Fault, TrialRecorder
from earlycrop.utils.errors import SurgeryError, raise_if_out_of_memory
from earlycrop.utils.meta import shapes_only
from earlycrop.utils.modules import tensors_by_name


@dataclass(frozen=True)
class Trials:
    """The copy of a network, and how to run it or one of its modules again.

    classes: the class of each channel of the first run. multiplicity: for each class, how many channels of it that run
    treated as different ones. scalars: what the network computed with in evaluation mode. training_scalars: the same in
    training mode, or None if it cannot run in training mode on shapes. samples: how many cuts of the whole network are
    tried.
    """

    module_calls: ModuleCallRecorder
    run: Callable[[nn.Module], Any]
    real: bool
    device: torch.device
    classes: ChannelLabels
    multiplicity: ChannelLabels
    scalars: list[ScalarArgs]
    training_scalars: list[ScalarArgs] | None
    samples: int
    repeatable_scalars: dict[tuple[str, bool], list[ScalarArgs | None]] = field(default_factory=dict)
    """By module ("" is the network) and whether in training mode: the scalars that are the same in a second run."""
    runs_uncut: dict[str, bool] = field(default_factory=dict)
    """By module: whether its first call can be made again without a fault."""
    network_faults: set[str] = field(default_factory=set)
    """Faults of the whole network, without numbers."""

    @property
    def network(self) -> nn.Module:
        return self.module_calls.network

    def check_cut(
        self,
        graph: Graph,
        remove: Sequence[int],
        tested: Sequence[int],
        root: str = "",
        size_attributes: tuple[SizeAttribute, ...] = (),
        in_training: bool = True,
    ) -> list[Fault]:
        """Cut nodes out of the copy, run it, put them back, and return what is wrong.

        The whole network is run in training mode as well, where a forward may have other hard-coded sizes. It must run
        and compute with the same scalars; channels are not compared, as what training does with them is no result.

        Args:
            graph: The graph of the network.
            remove: The nodes to cut.
            tested: The nodes whose faults count.
            root: The module to run; by default the whole network.
            size_attributes: Attributes that follow the cut, besides those of the graph.
            in_training: Run the whole network in training mode as well.
        """
        module = self.network.get_submodule(root)
        removed = graph.mask(remove)
        subgraph = _make_subgraph(graph, root, graph.size_attributes + size_attributes)
        make_recorder = partial(
            TrialRecorder,
            self._cut_classes(graph, tested),
            self._single_classes(subgraph, removed),
            self.multiplicity,
            find_remaining=partial(self._remaining_classes, graph, removed),
        )
        try:
            swap = cut_module(module, kept_indices(subgraph, removed), subgraph.sizes(removed))
        except SurgeryError as error:
            return [Fault(0, (root,), Reason("trial cut", root, str(error)))]
        training = False
        recorder = make_recorder(self._expected_scalars(root, training))
        try:
            _add_tensors(recorder, subgraph, module, removed)
            faults = self._find_faults(recorder, root, table.apply_rule)
            if not faults and not root and in_training and self.training_scalars is not None:
                training = True
                followed = recorder.followed
                recorder = make_recorder(self._expected_scalars(root, training))
                recorder.followed = followed
                with self.module_calls.training_mode():
                    faults = self._find_faults(recorder, root, table.record_scalars)
        finally:
            swap.undo()
        if recorder.scalars_differ and (root, training) not in self.repeatable_scalars:
            self.repeatable_scalars[root, training] = self._find_repeatable_scalars(root, training)
            return self.check_cut(graph, remove, tested, root, size_attributes, in_training)
        if not root:
            self.network_faults.update(fault.kind for fault in faults)
        elif not faults:
            self.runs_uncut[root] = True
        return faults

    @cached_property
    def splits_differ_in_training(self) -> bool:
        """Whether the network in training mode has other splits than in evaluation mode."""
        evaluation, training = (
            [s for s in scalars or [] if s.operation == SPLIT] for scalars in (self.scalars, self.training_scalars)
        )
        return evaluation != training

    def check_group(
        self, graph: Graph, root: str, ids: tuple[int, ...], size_attributes: tuple[SizeAttribute, ...]
    ) -> tuple[str, list[Fault]]:
        """Check a cut of a group in a module, and in modules around it as far as its channels go.

        What another module does with channels that this one returns (a split into queries, keys and values) shows only
        in a run of both. The modules are run from the innermost one on, until one has a fault, or none and returns no
        channels of the group. A module that cannot be run again alone is skipped: one that has a fault uncut, unless
        the whole network has the same fault.

        Args:
            graph: The graph of the network.
            root: The innermost module that has all tensors of the group.
            ids: The nodes of the group.
            size_attributes: Attributes that follow the cut, besides those of the graph.

        Returns:
            The module that was run last, and what is wrong.
        """
        remove, calls = sample_nodes(graph, [ids]), self.module_calls.calls
        while root:
            if root in calls and calls[root].repeatable:
                faults = self.check_cut(graph, remove, ids, root, size_attributes)
                if not faults and not self._returns(root, graph, ids):
                    return root, faults
                if faults and (faults[0].kind in self.network_faults or self._runs_uncut(graph, root)):
                    return root, faults
            root = root.rpartition(".")[0]
        return root, self.check_cut(graph, remove, ids, root, size_attributes)

    def _returns(self, root: str, graph: Graph, ids: tuple[int, ...]) -> bool:
        """Return whether what a module returned in its first call has channels of these nodes."""
        nodes = graph.classes[list(ids)]
        return any(np.isin(self.classes[labels], nodes).any() for labels in self.module_calls.calls[root].returned)

    def _runs_uncut(self, graph: Graph, root: str) -> bool:
        if root not in self.runs_uncut:
            self.runs_uncut[root] = not self.check_cut(graph, [], [], root)
        return self.runs_uncut[root]

    def _cut_classes(self, graph: Graph, tested: Sequence[int]) -> NodeMask:
        """Return for each class whether it is a node that is tested."""
        cut = np.zeros(self.multiplicity.size, bool)
        cut[graph.classes[graph.mask(tested)]] = True
        return cut

    def _remaining_classes(self, graph: Graph, removed: NodeMask) -> ChannelLabels:
        """Return the class of each channel of the first run, or what stands for channels of data and cut ones."""
        remaining = np.full(self.multiplicity.size, -1)
        for axis in graph.axes:
            remaining[axis.classes] = axis.classes
        remaining[graph.classes[removed]] = REMOVED
        return remaining[self.classes]

    def _single_classes(self, graph: Graph, removed: NodeMask) -> NodeMask:
        """Return for each class whether it is the only one that is left along some dimension."""
        single = np.zeros(self.multiplicity.size, bool)
        empty = np.zeros(0, np.int64)
        kept = np.append(~removed, True)[np.concatenate([empty, *(axis.nodes for axis in graph.axes)])]
        classes = np.concatenate([empty, *(axis.classes for axis in graph.axes)])
        starts = np.cumsum([0, *(axis.nodes.size for axis in graph.axes)])[:-1]
        lowest = np.minimum.reduceat(np.where(kept, classes, single.size), starts)
        highest = np.maximum.reduceat(np.where(kept, classes, -1), starts)
        single[lowest[lowest == highest]] = True
        return single

    def _find_faults(self, recorder: TrialRecorder, root: str, rule: Rule) -> list[Fault]:
        error = self._run_recorded(recorder, root, rule)
        if error is None:
            return recorder.faults
        why = f"a size is hard-coded in it: {str(error).partition(chr(10))[0]}"
        reason = Reason("trial cut", recorder.module, why)
        return [*recorder.faults, Fault(recorder.operation_count, tuple(recorder.module_stack), reason)]

    def _run_recorded(self, recorder: ChannelRecorder, root: str, rule: Rule) -> Exception | None:
        """Run a module as it was first called, and return the error that it raises, if any."""
        module = self.network.get_submodule(root)
        mode = RecordingMode(recorder, self.device, self.real, rule)
        with self.module_calls.record(recorder), shapes_only(mode):
            try:
                if not root:
                    self.run(module)
                    return None
                call = self.module_calls.calls[root]
                shapes = output_shapes(module(*call.args, **call.kwargs))
            except Exception as error:  # whatever a forward raises when a size has changed
                raise_if_out_of_memory(error)
                return error
        if not fits(shapes, call.sizes):
            return ValueError(f"it returns tensors of the shapes {shapes} instead of {call.sizes}")
        return None

    def _expected_scalars(self, root: str, training: bool) -> Sequence[ScalarArgs | None]:
        first = self.training_scalars if training else self.module_calls.calls[root].scalars if root else self.scalars
        return self.repeatable_scalars.get((root, training), first or [])

    def _find_repeatable_scalars(self, root: str, training: bool) -> list[ScalarArgs | None]:
        """Return the scalars of the first run, with None for those that differ in a second one (a loss may count)."""
        recorder, first = ChannelRecorder(), self._expected_scalars(root, training)
        with self.module_calls.training_mode() if training else nullcontext():
            self._run_recorded(recorder, root, table.record_scalars)
        second = [*recorder.scalars, *[None] * len(first)]
        return [a if a == b else None for a, b in zip(first, second, strict=False)]


def _make_subgraph(graph: Graph, root: str, size_attributes: tuple[SizeAttribute, ...]) -> Graph:
    """Return the part of a graph and of size attributes that concerns a module, with names relative to the module."""
    if not root:
        return replace(graph, size_attributes=size_attributes)
    prefix = f"{root}."
    n = len(prefix)
    axes = tuple(replace(axis, tensor=axis.tensor[n:]) for axis in graph.axes if axis.tensor.startswith(prefix))
    inside = tuple(
        replace(a, module=a.module[n:], tensor=a.tensor[n:])
        for a in size_attributes
        if f"{a.module}.".startswith(prefix) and a.tensor.startswith(prefix)
    )
    return replace(graph, axes=axes, size_attributes=inside)


def _add_tensors(recorder: TrialRecorder, graph: Graph, module: nn.Module, removed: NodeMask) -> None:
    """Give the tensors of a smaller network channels of the classes that are left."""
    kept = np.append(~removed, True)
    tensors = tensors_by_name(module)
    labels: dict[str, list[ChannelLabels]] = {name: [] for name in tensors}
    axes = [axis for axis in graph.axes if axis.tensor in tensors]
    channels = recorder.new_channels_of([axis.classes[kept[axis.nodes]] for axis in axes])
    for axis, vector in zip(axes, channels, strict=True):
        labels[axis.tensor].append(expand_labels(vector, axis.dim, tensors[axis.tensor].ndim))
    for name, t in tensors.items():
        recorder.set_info(t, labels[name], weight=isinstance(t, nn.Parameter))


def sample_nodes(graph: Graph, groups: Iterable[tuple[int, ...]], seed: int = 0) -> list[int]:
    """Draw about a third of the nodes of each group, such that no tensor becomes empty.

    Groups of one size lose different numbers of nodes: with equal ones, a size that follows the wrong group would fit.

    Args:
        graph: The graph of the network.
        groups: The nodes of each group.
        seed: Which nodes are drawn.

    Returns:
        The nodes that were drawn, in ascending order.
    """
    rng = np.random.default_rng(seed)
    removed = graph.mask(())
    touched: dict[tuple[str, int], None] = {}
    seen: Counter[int] = Counter()
    for ids in groups:
        count = 1 + (len(ids) // 3 - 1 + seen[len(ids)]) % max(1, len(ids) // 2)
        seen[len(ids)] += 1
        removed[rng.choice(ids, count, replace=False)] = True
        touched |= dict.fromkeys((tensor, dim) for tensor, dim, _ in graph.nodes[ids[0]].owns)
    for axis in touched:
        nodes = graph.axis[axis].nodes
        if nodes.min() >= 0 and removed[nodes].all():
            removed[nodes[0]] = False
    return removed.nonzero()[0].tolist()
