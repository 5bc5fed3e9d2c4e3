"""Gate decorators: ticks, in which the gates collect their scores, in turn with tocks, in which all is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.graph.types import layer_of
from earlycrop.procedures.base import Procedure, TrainingPlan
from earlycrop.procedures.gradient_hooks import before_optimizer_step
from earlycrop.procedures.l1_penalty import NormScaleL1
from earlycrop.pruning import run_pruning
from earlycrop.rounds.sizes import DenseBaseline
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.parameters import norm_scales, weight_matrices

Phase = Literal["dense", "tick", "tock", "tune"]


class GateDecorators(Procedure):
    """Train dense, then tick and tock in turn, then fine-tune.

    In a tick only the gates and the output layers learn: the gradients of all other parameters are computed, and
    dropped before the optimizer's step, as ``DistributedDataParallel`` waits for every gradient. The gates' scores are
    collected, and a part of the nodes is cut by them. In a tock all parameters are trained, with an L1 penalty on the
    gates.

    The gates are the batch norms' scales phi, as the authors initialise theirs. The score of a gate is the sum over the
    steps of a tick of |phi dL/dphi|, ranked over the whole network.

    Args:
        plan: What to prune.
        rounds: The largest number of ticks. There are fewer if there are too few epochs.
        penalty: The weight of the L1 penalty in tocks; 0 for none.

    Raises:
        ValueError: The network has no batch norm, there are too few epochs, or the sparsity is a share of time.

    Source: You et al. 2019, sections 3.2 to 3.4. Deviation: ticks and tocks are an epoch each.
    """

    def __init__(self, plan: TrainingPlan, rounds: int, penalty: float) -> None:
        super().__init__(plan)
        epochs, self._network, self._optimizers = plan.epochs, plan.context.network, plan.context.optimizers
        if not norm_scales(self._network):
            raise ValueError(
                "gatedecorators puts its gates on the scales of batch norms, and this network has none: take another "
                "method, such as taylor"
            )
        tune = max(1, epochs // 4)
        self.rounds = min(rounds, (epochs - tune - 1) // 2)
        if self.rounds < 1:
            raise ValueError(f"gatedecorators needs at least 4 epochs, and there are {epochs}")
        if plan.request.of == "time":
            raise ValueError("gatedecorators cuts many times, and cannot meet a target in time: give another measure")
        target = plan.request.targets[-1]
        self.targets = [target * i / self.rounds for i in range(1, self.rounds)] + [target]
        self.dense_epochs = epochs - tune - 2 * self.rounds
        self.penalty_weight = penalty
        self._round = 0
        self._baseline = DenseBaseline()
        self._event: Event | None = None  # kept until it is returned, also if the next phase cannot begin
        self._frozen: list[str] = []
        self._scores: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._penalty: NormScaleL1 | None = None

    def phase(self, epoch: int) -> Phase:
        """Return what the ``epoch``-th epoch is, counted from 1."""
        i = epoch - self.dense_epochs - 1
        if i < 0:
            return "dense"
        if i >= 2 * self.rounds:
            return "tune"
        return "tock" if i % 2 else "tick"

    def step(self, epoch: int, distance: WeightDistance, batches: Iterable[Any]) -> Event | None:
        read: list[Any] = []
        # a tick has just ended, and its cut has not been made yet
        if epoch and self.phase(epoch) == "tick" and self._round == (epoch - self.dense_epochs - 1) // 2:
            read = self.plan.read_batches(batches)
            reason = f"tick {self._round + 1} of {self.rounds}"
            request = replace(self.plan.request, targets=[self.targets[self._round]], gate="rows")
            self._event = run_pruning(request, self.plan.context, read, reason, epoch, self._baseline, self._scores)
            self._round += 1
            if self._round == self.rounds:
                self._baseline = DenseBaseline()
        self.close()
        if epoch < self.total_epochs:
            self._begin_phase(self.phase(epoch + 1), batches, read)
        event, self._event = self._event, None
        return event

    def _begin_phase(self, phase: Phase, batches: Iterable[Any], read: list[Any]) -> None:
        """Set up for an epoch; ``read``: the batches that were read already."""
        if phase == "tick":
            graph = self.plan.trace(read or self.plan.read_batches(batches))
            outputs = tuple(f"{name}." for name in _output_layers(self._network, graph))
            gates = set(norm_scales(self._network))
            trained = [name for name, p in self._network.named_parameters() if p.requires_grad]
            self._begin_tick([name for name in trained if name not in gates and not name.startswith(outputs)])
        elif phase == "tock" and self.penalty_weight:
            self._penalty = NormScaleL1(self._network, self._optimizers, self.penalty_weight)

    def _begin_tick(self, names: list[str]) -> None:
        """Stop the training of these parameters, and collect the gates' scores from now on."""
        self._frozen = names
        self._handles = before_optimizer_step(self._optimizers, self._collect_scores)

    def _collect_scores(self, stepped: set[int], scale: Tensor | None) -> None:
        for name in self._frozen:
            self._network.get_parameter(name).grad = None  # an optimizer skips what has no gradient
        for name in norm_scales(self._network):
            p = self._network.get_parameter(name)
            if id(p) in stepped and p.grad is not None:
                score = (p.detach() * p.grad).abs()
                if scale is not None:
                    score = score / scale.to(score.device)
                self._scores[name] = self._scores.get(name, torch.zeros_like(score)) + score

    def finished(self) -> bool:
        return self._round == self.rounds and not self._frozen and self._penalty is None

    def has_hooks(self) -> bool:
        return not self.finished()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        if self._penalty is not None:
            self._penalty.release()
        self._handles, self._frozen, self._penalty, self._scores = [], [], None, {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self._round,
            "frozen": list(self._frozen),
            "penalty": self._penalty is not None,
            "scores": dict(self._scores),
            "baseline": self._baseline.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self._round, self._baseline = int(state["round"]), DenseBaseline.from_state_dict(state["baseline"])
        if state["frozen"]:
            self._begin_tick(list(state["frozen"]))
            # not empty where the cut at the end of a tick has failed
            self._scores = {name: t.to(self._network.get_parameter(name).device) for name, t in state["scores"].items()}
        if state["penalty"]:
            self._penalty = NormScaleL1(self._network, self._optimizers, self.penalty_weight)


def _output_layers(network: nn.Module, graph: Graph) -> set[str]:
    """Return the layers whose outputs the network returns, and those of a single output, which have no nodes."""
    returned = {layer.name: bool(layer.returned.any()) for layer in graph.layers}
    single = {layer_of(name) for name, p in weight_matrices(network).items() if 1 in p.shape[:2]} - returned.keys()
    return {name for name, is_output in returned.items() if is_output} | single
