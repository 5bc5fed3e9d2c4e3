"""Gate decorators: ticks, in which gates gather their scores, and tocks, in which everything learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.graph.types import layer_of
from earlycrop.procedures.base import Job
from earlycrop.procedures.gradient_hooks import before_optimizer_step
from earlycrop.procedures.l1_penalty import NormScaleL1
from earlycrop.pruning import run_pruning
from earlycrop.rounds import DenseBaseline
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.parameters import norm_scales, weight_matrices


class GateDecorators:
    """Gate decorators: after some dense training, in turn a tick (an epoch in which only the gates and the output
    layers learn, and the gates' scores are gathered, by which a part of the nodes is then cut) and a tock (an epoch of
    all, with an L1 penalty on the gates); the rest is fine-tuning.

    The gates are the batch norms' scales phi, as the authors start theirs; their score is the sum over the steps of a
    tick of |phi dL/dphi|, ranked over the whole network. Source: You et al. 2019, sections 3.2 to 3.4. Deviation:
    ticks and tocks are an epoch each, and there are ``rounds`` of them, or as many as the budget holds.

    Raises:
        ValueError: the network has no batch norm, there are too few epochs, or the target is one in time.
    """

    def __init__(self, job: Job, rounds: int, penalty: float) -> None:
        if not norm_scales(job.inside):
            raise ValueError(
                "gatedecorators puts its gates on the scales of batch norms, and this network has none: take another "
                "method, such as taylor"
            )
        self._model = job.inside
        self.tail = max(1, job.epochs // 4)
        self.rounds = min(rounds, (job.epochs - self.tail - 1) // 2)
        if self.rounds < 1:
            raise ValueError(f"gatedecorators needs at least 4 epochs, and there are {job.epochs}")
        if job.request.of == "time":
            raise ValueError("gatedecorators cuts many times, and cannot meet a target in time: give another measure")
        target = job.request.targets[-1]
        self.targets = [target * i / self.rounds for i in range(1, self.rounds)] + [target]
        self.total, self.weight = job.epochs, penalty
        self.start = job.epochs - self.tail - 2 * self.rounds
        self._round = 0
        self._frozen: list[str] = []
        self._before = DenseBaseline()
        self._gathered: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._penalty: NormScaleL1 | None = None

    def phase(self, epoch: int) -> str:
        """What the ``epoch``-th epoch is (from 1): dense, tick, tock or tune."""
        i = epoch - self.start - 1
        if i < 0:
            return "dense"
        return ("tick", "tock")[i % 2] if i < 2 * self.rounds else "tune"

    def position(self, epoch: int) -> int:
        return epoch

    def step(self, job: Job, epoch: int, walk: WeightDistance, batches: Iterable[Any]) -> Event | None:
        read: list[Any] = []
        event = None
        if epoch and self.phase(epoch) == "tick" and self._round == (epoch - self.start - 1) // 2:
            read = job.read(batches)
            reason = f"tick {self._round + 1} of {self.rounds}"
            request = replace(job.request, targets=[self.targets[self._round]], gate="rows")
            event = run_pruning(
                request, job.model, job.loss, read, job.optimizer, reason, epoch, job.copies, self._gathered,
                self._before, job.group,
            )  # fmt: skip
            self._round += 1
            if self._round == self.rounds:
                self._before = DenseBaseline()
        self.close()
        if epoch < self.total:
            self._enter(job, self.phase(epoch + 1), batches, read)
        return event

    def _enter(self, job: Job, phase: str, batches: Iterable[Any], read: list[Any]) -> None:
        """Set up for an epoch."""
        if phase == "tick":
            graph = job.traced(read or job.read(batches))
            outputs = tuple(f"{name}." for name in _output_layers(job.inside, graph))
            learn = set(norm_scales(job.inside))
            self._freeze(
                job, [n for n, p in job.inside.named_parameters() if p.requires_grad and n not in learn
                      and not n.startswith(outputs)]
            )  # fmt: skip
        elif phase == "tock" and self.weight:
            self._penalty = NormScaleL1(job.inside, job.optimizer, self.weight)

    def _freeze(self, job: Job, names: list[str]) -> None:
        model = self._model
        self._frozen = names
        for name in names:
            p = model.get_parameter(name)
            p.requires_grad_(False)
            p.grad = None

        def gather(stepped: set[int], scale: Tensor | None) -> None:
            for name in norm_scales(model):
                p = model.get_parameter(name)
                if id(p) in stepped and p.grad is not None:
                    score = (p.detach() * p.grad).abs()
                    if scale is not None:
                        score = score / scale.to(score.device)
                    self._gathered[name] = self._gathered.get(name, torch.zeros_like(score)) + score

        self._handles = before_optimizer_step(job.optimizer, gather)

    def finished(self) -> bool:
        return self._round == self.rounds and not self._frozen and self._penalty is None

    def log(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._frozen:
            self._model.get_parameter(name).requires_grad_(True)
        if self._penalty is not None:
            self._penalty.release()
        self._handles, self._frozen, self._penalty, self._gathered = [], [], None, {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self._round, "frozen": list(self._frozen), "penalty": self._penalty is not None,
            "gathered": dict(self._gathered), **self._before.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, job: Job, state: Mapping[str, Any]) -> None:
        self.close()
        self._round, self._before = int(state["round"]), DenseBaseline.of_state(state)
        if state["frozen"]:
            self._freeze(job, list(state["frozen"]))
            gathered = state.get("gathered", {})  # of a tick whose cut has failed
            self._gathered = {n: t.to(self._model.get_parameter(n).device) for n, t in gathered.items()}
        if state["penalty"]:
            self._penalty = NormScaleL1(job.inside, job.optimizer, self.weight)


def _output_layers(model: nn.Module, graph: Graph) -> set[str]:
    """The output layers, and those of a single output, which has no nodes by which to tell."""
    known = {layer.name: bool(layer.returned.any()) for layer in graph.layers}
    single = {layer_of(name) for name, p in weight_matrices(model).items() if 1 in p.shape[:2]} - known.keys()
    return {name for name, returned in known.items() if returned} | single
