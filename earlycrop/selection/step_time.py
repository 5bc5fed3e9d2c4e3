"""A target in time: the step of the pruned network is measured beside the dense one's, between cuts."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
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
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits
from earlycrop.selection.nodes import NodeChoice, node_ranking
from earlycrop.surgery.slicing import cut_module, kept_indices
from earlycrop.utils.contexts import preserve_state
from earlycrop.utils.distributed import ProcessGroup, all_reduce_max, fail_together
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import unwrap

WARMUP, PAIRS, PRECISION, SECONDS = 2, (7, 200), 0.01, 10.0
"""A measurement: steps that do not count, the least and the most pairs that do; it ends once the ratio of the medians
has this relative standard error, or after so long."""
MAX_PROBES, TOLERANCE = 9, 0.02
"""At most so many cuts are measured for a target; less than this share of the dense step is not fought for."""


@dataclass(frozen=True)
class TimeProbe:
    """left: the step without these nodes, in microseconds (rounded up), where the dense step takes ``dense``."""

    left: Callable[[NodeMask], int]
    dense: int


class StepTimer:
    """Measures a training step (forward and backward of the loss on one batch, no optimizer step) in microseconds.

    A copy of the model as it is now is the yardstick: a cut is measured on another copy, step by step in turn with it,
    so that whatever else the machine does meets both, and the ratio of the medians counts. The model, its buffers and
    the random state are not touched. Of several processes that train one model (``group``), the slowest counts.

    Raises:
        ValueError: the loss fails on the copy in training mode.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, group: ProcessGroup = None) -> None:
        self.now, self.loss, self.batch, self.group = unwrap(model), loss, batch, group
        self.model = _copy_model(self.now)
        with fail_together(group):
            times = self._times(self.model)
        self.dense = all_reduce_max(ceil(1e6 * median(times[0])), group)
        """The dense step, in microseconds."""

    def beside(self, graph: Graph) -> TimeProbe:
        """What measures cuts of the model as it is now, which ``graph`` is of."""

        def left(removed: NodeMask) -> int:
            with fail_together(self.group):
                small = _copy_model(self.now)
                cut_module(small, kept_indices(graph, removed), graph.sizes(removed))
                dense, times = self._times(self.model, small)
            return all_reduce_max(ceil(self.dense * median(times) / median(dense)), self.group)

        return TimeProbe(left, self.dense)

    def _times(self, *models: nn.Module) -> list[list[float]]:
        """The seconds of each model's steps, taken in turn."""
        times: list[list[float]] = [[] for _ in models]
        start = perf_counter()
        for done in range(-WARMUP, PAIRS[1]):
            if done == 0:
                start = perf_counter()
            if done >= PAIRS[0] and (perf_counter() - start > SECONDS or _relative_error(times) <= PRECISION):
                break
            for mine, model in zip(times, models, strict=True):
                seconds = self._seconds(model)
                if done >= 0:
                    mine.append(seconds)
        return times

    def _seconds(self, model: nn.Module) -> float:
        device = next(model.parameters()).device
        with preserve_state(model), torch.inference_mode(False), torch.enable_grad():
            model.train()
            _synchronize(device)
            start = perf_counter()
            try:
                self.loss(model, self.batch).backward()  # type: ignore[no-untyped-call]
            except Exception as error:
                raise ValueError(
                    f"the training step cannot be timed ({type(error).__name__}: {error}): see whether the loss can be "
                    "differentiated on the first batch, in training mode, by a copy of the model"
                ) from error
            _synchronize(device)
            seconds = perf_counter() - start
        model.zero_grad(set_to_none=True)
        return seconds


def choose_nodes_in_time(
    graph: Graph,
    scores: Float[Tensor, "nodes"],
    allowed: int,
    probe: TimeProbe,
    limits: Limits | Bounds = NO_BOUNDS,
) -> NodeChoice:
    """Remove the nodes of least score until a step takes at most ``allowed`` microseconds, as ``probe`` measures it.

    By bisection over the multiply-accumulates that the ranking leaves. What is chosen has been measured, and is at most
    ``allowed``. The search ends within ``TOLERANCE`` of the dense time below that, where two cuts differ by less than
    that in multiply-accumulates, or after ``PROBES`` measurements. Time need not fall with every node (kernels like
    some widths better than others), so that a smaller cut may fit as well. Where all that may go is not enough, it
    goes.

    Raises:
        ValueError: see :func:`earlycrop.selection.nodes.node_bounds`.
    """
    ranking = node_ranking(graph, scores, limits)
    costs = graph.costs("macs")

    def macs(n: int) -> int:
        return total_cost(costs, ranking.first(n))

    few, many = 0, ranking.count  # too few units, and enough
    left = probe.left(ranking.first(many))
    reached = left <= allowed
    for _ in range(MAX_PROBES - 1):
        goal = (macs(few) + macs(many)) // 2
        middle = few + bisect_left(range(few, many), -goal, key=lambda n: -macs(n))
        middle = min(max(middle, few + 1), many - 1)
        close = macs(few) - macs(many) <= TOLERANCE * graph.cost("macs")
        if not reached or middle <= few or close or allowed - left <= TOLERANCE * probe.dense:
            break
        time = probe.left(ranking.first(middle))
        if time <= allowed:
            many, left = middle, time
        else:
            few = middle
    return NodeChoice(ranking.first(many), left, ranking.holding(many, reached))


def _relative_error(times: list[list[float]]) -> float:
    """The relative standard error of the ratio of the medians, from the median absolute deviations.

    For normal samples of n it is sqrt(pi / 2 n) times 1.4826 of these, in quadrature; single bursts do not count.
    """
    logs = np.log(np.array(times))
    apart = np.median(np.abs(logs - np.median(logs, 1, keepdims=True)), 1)
    return float(np.sqrt(np.pi / 2 * np.sum((1.4826 * apart) ** 2) / logs.shape[1]))


def _copy_model(model: nn.Module) -> nn.Module:
    """A copy without gradients."""
    with torch.inference_mode(False):
        copied = copy.deepcopy(model)
    copied.zero_grad(set_to_none=True)
    return copied


def _synchronize(device: torch.device) -> None:
    """Until the device has done what was queued on it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
