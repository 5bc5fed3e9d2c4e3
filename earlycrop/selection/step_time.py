"""Targets in time: training steps of pruned copies are measured next to steps of the network as it is."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask, total_cost
from earlycrop.scoring.loss_terms import total_loss
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits
from earlycrop.selection.nodes import NodeChoice, node_ranking
from earlycrop.surgery.slicing import cut_module, kept_indices
from earlycrop.utils.contexts import preserve_state
from earlycrop.utils.copies import copy_module
from earlycrop.utils.devices import synchronize
from earlycrop.utils.distributed import ProcessGroup, all_reduce_max, fail_together
from earlycrop.utils.errors import raise_if_out_of_memory
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import unwrap

WARMUP = 2
"""Steps of each model before a measurement, which are not counted."""
MIN_PAIRS = 7
"""Pairs of steps, one of each model, that every measurement takes."""
MAX_PAIRS = 200
"""Pairs of steps after which a measurement ends."""
PRECISION = 0.01
"""Relative standard error of the ratio of the two medians at which a measurement ends."""
SECONDS = 10.0
"""Seconds after which a measurement ends."""
MAX_PROBES = 9
"""Measurements for one target."""
TOLERANCE = 0.02
"""Share of the dense step by which a choice may be faster than the target."""


class StepTimer:
    """Measures a training step (forward and backward of the loss on one batch, without the optimizer) in microseconds.

    A copy of the model as it is now is the reference. A pruned copy and the reference take steps in turn, so that other
    load on the machine affects both, and the ratio of their medians counts. The model, its buffers and the random state
    are not changed.

    Args:
        model: The model to prune.
        loss: (model, batch) -> scalar loss.
        batch: The batch to step on.
        group: Processes that train one model. The slowest of them counts.

    Raises:
        ValueError: The loss fails on a copy of the model in training mode.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, group: ProcessGroup = None) -> None:
        self.model, self.loss, self.batch, self.group = unwrap(model), loss, batch, group
        self.reference = _copy_model(self.model)
        with fail_together(group):
            times = self._measure(self.reference)
        self.dense = all_reduce_max(ceil(1e6 * median(times[0])), group)
        """The dense step, in microseconds."""

    def left(self, graph: Graph, removed: NodeMask) -> int:
        """Measure the step of the model as it is now without some nodes.

        Args:
            graph: The graph of the model as it is now.
            removed: The nodes to leave out.

        Returns:
            The step in microseconds, rounded up.
        """
        with fail_together(self.group):
            pruned = _copy_model(self.model)
            cut_module(pruned, kept_indices(graph, removed), graph.sizes(removed))
        return self.time(pruned)

    def time(self, model: nn.Module) -> int:
        """Measure the step of another form of the model, in microseconds, rounded up."""
        with fail_together(self.group):
            reference_times, times = self._measure(self.reference, model)
        return all_reduce_max(ceil(self.dense * median(times) / median(reference_times)), self.group)

    def _measure(self, *models: nn.Module) -> list[list[float]]:
        """Return the seconds of each model's steps, which are taken in turn."""
        times: list[list[float]] = [[] for _ in models]
        for _ in range(WARMUP):
            for model in models:
                self._seconds(model)
        start = perf_counter()
        for pair in range(MAX_PAIRS):
            if pair >= MIN_PAIRS and (perf_counter() - start > SECONDS or _relative_error(times) <= PRECISION):
                break
            for model_times, model in zip(times, models, strict=True):
                model_times.append(self._seconds(model))
        return times

    def _seconds(self, model: nn.Module) -> float:
        """Return the seconds of one step."""
        device = next(model.parameters()).device
        with preserve_state(model), torch.inference_mode(False), torch.enable_grad():
            model.train()
            synchronize(device)
            start = perf_counter()
            try:
                total_loss(self.loss(model, self.batch)).backward()  # type: ignore[no-untyped-call]
            except Exception as error:
                raise_if_out_of_memory(error)
                raise ValueError(
                    f"the training step cannot be timed ({type(error).__name__}: {error}): check that the loss can be "
                    "differentiated on the first batch, in training mode, by a copy of the model"
                ) from error
            synchronize(device)
            seconds = perf_counter() - start
        model.zero_grad(set_to_none=True)
        return seconds


def choose_nodes_in_time(
    graph: Graph, scores: Float[Tensor, "nodes"], allowed: int, timer: StepTimer, limits: Limits | Bounds = NO_BOUNDS
) -> NodeChoice:
    """Remove the nodes with the lowest scores until a step takes at most ``allowed`` microseconds.

    The number of nodes is found by bisection over the multiply-accumulates that are left. What is chosen was measured,
    and takes at most ``allowed``. The search ends when the choice is within ``TOLERANCE`` of the target, when two cuts
    differ by less than that in multiply-accumulates, or after ``MAX_PROBES`` measurements. A smaller cut may meet the
    target too, because kernels are faster at some widths than at others. If removing everything that can be removed is
    not enough, that is done.

    Args:
        graph: The network's graph.
        scores: The score of each node.
        allowed: How long a step may take, in microseconds.
        timer: Measures the step of a pruned network.
        limits: What the choice must respect.

    Returns:
        The nodes, and the step without them in microseconds.

    Raises:
        ValueError: See :func:`earlycrop.selection.nodes.node_bounds`.
    """
    ranking = node_ranking(graph, scores, limits)
    costs = graph.costs("macs")

    def macs_without(n: int) -> int:
        return total_cost(costs, ranking.remove_first(n))

    low, high = 0, ranking.count  # too few units, and enough
    left = timer.left(graph, ranking.remove_first(high))
    reached = left <= allowed
    for _ in range(MAX_PROBES - 1):
        goal = (macs_without(low) + macs_without(high)) // 2
        middle = low + bisect_left(range(low, high), -goal, key=lambda n: -macs_without(n))
        middle = min(max(middle, low + 1), high - 1)
        close = macs_without(low) - macs_without(high) <= TOLERANCE * graph.cost("macs")
        if not reached or middle <= low or close or allowed - left <= TOLERANCE * timer.dense:
            break
        time = timer.left(graph, ranking.remove_first(middle))
        if time <= allowed:
            high, left = middle, time
        else:
            low = middle
    return NodeChoice(ranking.remove_first(high), left, ranking.find_limiting_layers(high, reached))


def _relative_error(times: list[list[float]]) -> float:
    """Estimate the relative standard error of the ratio of the medians from the median absolute deviations.

    The standard error of the median of n normal samples is sqrt(pi / 2 n) sigma, and sigma is 1.4826 times the median
    absolute deviation, on which single outliers have no effect.
    """
    logs = np.log(np.array(times))
    deviations = np.median(np.abs(logs - np.median(logs, 1, keepdims=True)), 1)
    return float(np.sqrt(np.pi / 2 * np.sum((1.4826 * deviations) ** 2) / logs.shape[1]))


def _copy_model(model: nn.Module) -> nn.Module:
    """Copy a model without its gradients."""
    with torch.inference_mode(False):
        copied = copy_module(model)
    copied.zero_grad(set_to_none=True)
    return copied
