"""The data's share of an epoch of image classification: ``python -m benchmarks.feed [--data FOLDER] [--device cuda]``.

Batches drawn and augmented without a network, beside whole training steps on them, in turn in one process. The goal is
a share of at most 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import torch
import tyro
from torch import nn

from tasks import cifar10
from tasks._run import device_of
from tasks._vision import Vision

GOAL = 0.05


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    data: str = "uoft-cs/cifar10"
    """CIFAR-10, as the task takes it."""
    presets: tuple[str, ...] = ("smoke", "standard", "paper-table1")
    """Presets of the task, a row each."""
    batches: int = 8
    """Batches that are timed at a time."""
    repeats: int = 3
    """Times; the fastest counts."""
    device: str = "auto"
    """Torch device."""


def seconds(task: Vision, model: nn.Module, batches: int, train: bool) -> float:
    """A batch's seconds, of drawing it and, if ``train``, of the step on it."""
    device, optimizer = next(model.parameters()).device, task.optimizer(model)
    drawn = task.batches(model, 1)
    next(drawn)  # what is set up for an epoch is not a batch's

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter()

    start, count = now(), 0
    for batch in islice(drawn, batches):
        count += 1
        if train:
            optimizer.zero_grad(set_to_none=True)
            task.training_loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return (now() - start) / count


def main(options: Options) -> None:
    """Measure and print."""
    device = device_of(options.device, "--device")
    print(f"{device}, {torch.get_num_threads()} threads; the goal is a share of at most {GOAL:.0%}")
    print("preset         network           batch  data ms  step ms  share  of goal")
    for name in options.presets:
        settings = replace(cifar10.PRESETS[name](), data=options.data, device=str(device))
        task = cifar10.make(settings)
        assert isinstance(task, Vision)
        model = task.model().to(device)
        seconds(task, model, 2, train=True)
        pairs = [
            (seconds(task, model, options.batches, False), seconds(task, model, options.batches, True))
            for _ in range(options.repeats)
        ]
        data, whole = (min(column) for column in zip(*pairs, strict=True))
        print(
            f"{name:14} {settings.network:16} {settings.batch:6} {1000 * data:8.2f} {1000 * whole:8.1f} "
            f"{data / whole:6.1%} {data / whole / GOAL:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
