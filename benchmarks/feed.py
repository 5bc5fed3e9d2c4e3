"""The data's share of an epoch of image classification.

Batches drawn and augmented without a network, beside complete training steps on them, in turn in one process. The goal
is a share of at most 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import torch
from torch import nn

from benchmarks.command_line import BenchmarkOptions, fail, require_known, run
from benchmarks.random_images import cifar10_data
from benchmarks.results import Results
from tasks import cifar10
from tasks.runner.training_loop import device_of
from tasks.vision.classification import Vision

GOAL = 0.05
"""Share of a training step that its data may take."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    data: str | None = None
    """CIFAR-10, as tasks.cifar10 takes it. Default: uoft-cs/cifar10; random images with --quick."""
    presets: tuple[str, ...] = ("smoke", "standard", "paper-table1")
    """Presets of tasks.cifar10, a row each."""
    batches: int = 8
    """Batches that are timed at a time."""
    batch: int | None = None
    """Images in a batch. Default: the preset's."""
    repeats: int = 3
    """Timings of each; the fastest counts."""
    device: str = "auto"
    """Torch device."""


QUICK = Options(presets=("smoke",), batch=4, batches=2, repeats=1, device="cpu")


def batch_seconds(task: Vision, model: nn.Module, batches: int, train: bool) -> float:
    """Seconds of drawing a batch and, if ``train``, of the training step on it."""
    device, optimizer = next(model.parameters()).device, task.optimizer(model)
    drawn = task.batches(model, 1)
    next(drawn)  # what is set up for an epoch is not part of a batch

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
    if not count:
        fail("an epoch has only one batch: give more images or a smaller --batch")
    return (now() - start) / count


def measure(preset: str, data: str, device: torch.device, options: Options) -> dict[str, object]:
    """The row of a preset."""
    settings = replace(cifar10.PRESETS[preset](), data=data, device=str(device))
    try:
        task = cifar10.make(replace(settings, batch=options.batch or settings.batch))
    except ValueError as error:
        fail(str(error))
    assert isinstance(task, Vision)
    model = task.model().to(device)
    batch_seconds(task, model, 2, train=True)
    pairs = [
        [batch_seconds(task, model, options.batches, train) for train in (False, True)] for _ in range(options.repeats)
    ]
    drawing, step = (min(column) for column in zip(*pairs, strict=True))
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "network": settings.network,
        "batch": options.batch or settings.batch,
        "data_ms": 1000 * drawing,
        "step_ms": 1000 * step,
        "data_share": drawing / step,
        "goal": f"at most {GOAL}",
    }


def main(options: Options) -> None:
    """Measure and print."""
    require_known("--presets", options.presets, list(cifar10.PRESETS))
    try:
        device = device_of(options.device, "--device")
    except ValueError as error:
        fail(str(error))
    figures = ["network", "batch", "data_ms", "step_ms", "data_share", "goal"]
    results = Results("feed", options, ["preset", "device"], figures, ["torchvision"])
    with cifar10_data(options.data, options.quick) as data:
        for preset in options.presets:
            results.add(measure(preset, data, device, options))
    results.print()


if __name__ == "__main__":
    run("feed", main, Options(), QUICK, __doc__)
