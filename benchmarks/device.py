"""What pruning saves on a device: training steps a second, peak memory of a step, and what a scoring costs.

ResNet18 with a CIFAR stem, and a language model of an LSTM: the dense network beside the one that lost 90 % of its
weights in whole nodes, and the one that lost them one by one. The scoring is one of CroP (g and Hg), in gradients on
the same batch, with torch's bare double backward beside it. On a GPU, torch may use TF32, as it does by default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from benchmarks.command_line import BenchmarkOptions, fail, run
from benchmarks.core import network as resnet18
from benchmarks.results import Results
from earlycrop import measure

SPARSITY = 0.9


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    device: str = "auto"
    """Torch device, or "auto": the accelerator where there is one, else the CPU."""
    networks: tuple[Literal["resnet18", "lstm"], ...] = ("resnet18", "lstm")
    """Networks, three rows each."""
    batch: int = 128
    """Images or sequences in a batch."""
    size: int = 32
    """Side of the images, and length of the sequences."""
    width: int = 512
    """Units of the LSTM."""
    repeats: int = 20
    """Timed steps of each network, one after the other; the median counts."""


QUICK = Options(batch=2, size=8, width=16, repeats=1)


class LanguageModel(nn.Module):
    """An embedding, two layers of an LSTM, and the words' logits."""

    def __init__(self, width: int, words: int = 1000) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(words, width), nn.Linear(width, words)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.out(self.lstm(self.embedding(words))[0])
        return logits.mT


def case(name: str, options: Options, device: torch.device) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network and a batch on the device."""
    torch.manual_seed(0)
    if name == "resnet18":
        images = torch.randn(options.batch, 3, options.size, options.size)
        return resnet18().to(device), (images.to(device), torch.randint(0, 10, (options.batch,)).to(device))
    words = torch.randint(0, 1000, (options.batch, options.size + 1)).to(device)
    return LanguageModel(options.width).to(device), (words[:, :-1], words[:, 1:])


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def training_step(model: nn.Module, batch: tuple[Tensor, Tensor], structured: bool | None) -> Callable[[], None]:
    """A training step of the network, which is pruned by whole nodes or by single weights, or (None) is dense."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    if structured is not None:
        earlycrop.prune(model, loss, [batch], "magnitude", SPARSITY, structured=structured, optimizer=optimizer)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    model.train()
    step()  # makes the optimizer's state
    return step


def scoring(model: nn.Module, batch: tuple[Tensor, Tensor], repeats: int) -> tuple[float, float]:
    """A scoring and a bare double backward, in gradients."""
    model.eval()
    parameters, device = list(model.parameters()), batch[0].device

    def gradient() -> None:
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent layers have no gradient in evaluation mode
            torch.autograd.grad(loss(model, batch), parameters)

    def double_backward() -> None:
        with torch.backends.cudnn.flags(enabled=False):
            g = torch.autograd.grad(loss(model, batch), parameters, create_graph=True)
            torch.autograd.grad(g, parameters, [x.detach() for x in g], allow_unused=True)

    functions: list[Callable[[], Any]] = [gradient, double_backward, lambda: earlycrop.flow(model, loss, [batch])]
    one, two, scored = measure.milliseconds_in_turn(functions, device, repeats, warmup=1)
    return scored / one, two / one


def measured(name: str, options: Options, device: torch.device) -> list[dict[str, object]]:
    """The rows of a network."""
    model, batch = case(name, options, device)
    kinds: dict[str, bool | None] = {"dense": None, "cut": True, "masked": False}
    steps = {kind: training_step(copy.deepcopy(model), batch, structured) for kind, structured in kinds.items()}
    milliseconds = measure.milliseconds_in_turn(list(steps.values()), device, options.repeats)
    scored, double_backward = scoring(copy.deepcopy(model), batch, max(1, options.repeats // 4))
    rows: list[dict[str, object]] = []
    for kind, time in zip(kinds, milliseconds, strict=True):
        steps.clear()  # a step's memory is to be without the other networks
        alone = training_step(copy.deepcopy(model), batch, kinds[kind])
        memory = measure.step_memory_bytes(alone, device) / 2**20
        row: dict[str, object] = {"network": name, "kind": kind, "steps_a_second": 1000 / time, "step_mb": memory}
        if kind == "dense":
            row |= {"scoring_in_gradients": scored, "double_backward_in_gradients": double_backward}
        rows.append(row | {"device": device_name(device)})
        del alone
    return rows


def device_name(device: torch.device) -> str:
    """The device's name, or its kind where it has none."""
    named = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if named is None else str(named(device))


def main(options: Options) -> None:
    """Measure and print."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    name = str(accelerator or "cpu") if options.device == "auto" else options.device
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        fail(f"there is no device '{name}' here ({str(error).partition('.')[0]}): leave out --device")
    figures = ["steps_a_second", "step_mb", "scoring_in_gradients", "double_backward_in_gradients"]
    results = Results("device", options, ["network", "kind", "device"], figures, ["torchvision"])
    for network in options.networks:
        for row in measured(network, options, device):
            results.add(row)
    results.print()


if __name__ == "__main__":
    run("device", main, Options(), QUICK, __doc__)
