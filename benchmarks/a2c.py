"""Environment steps per second of A2C on the control tasks, ours and stable-baselines3's, in turn.

The same network, environments, rollout length, and number of torch threads; evaluation, logging and set-up are not
timed. The peer makes its environments as it does by default, one after the other in the process that learns. Needs
stable-baselines3 (``pip install '.[bench]'``).
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Literal

import torch

from benchmarks.command_line import BenchmarkOptions, fail, require_installed, run
from benchmarks.results import Results
from earlycrop.scoring.loss_terms import total_loss


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    tasks: tuple[Literal["cartpole", "acrobot", "lunarlander"], ...] = ("cartpole", "acrobot", "lunarlander")
    """What is played, in its default preset's network and number of agents."""
    rollouts: tuple[int, ...] = (5, 16, 32)
    """Steps between two updates, a row each; 5 is stable-baselines3's default."""
    steps: int = 50_000
    """Environment steps that are timed."""
    repeats: int = 3
    """Timings of each, in turn; the fastest counts."""
    workers: tuple[int, ...] = (1,)
    """Environments of ours that step at once, a row each; above 1, a process an environment."""
    threads: int = 1
    """Torch's threads."""
    towers: bool = False
    """Whether the peer has its own MlpPolicy, a tower of these widths for the actor and one for the critic."""
    tool: Literal["both", "ours"] = "both"
    """Whether stable-baselines3 is measured, too."""


QUICK = Options(tasks=("cartpole",), rollouts=(5,), steps=500, repeats=1)


def agents(name: str) -> int:
    """Environments of the task's default preset."""
    count: int = importlib.import_module(f"tasks.{name}").PRESETS["default"]().agents
    return count


def ours(name: str, rollout: int, steps: int, workers: int) -> float:
    """Environment steps per second of the inside of our training loop."""
    module = importlib.import_module(f"tasks.{name}")
    options = replace(module.PRESETS["default"](), rollout=rollout, steps=2 * steps, epochs=1, workers=workers)
    task = module.make(options)
    model = task.model()
    optimizer = task.optimizer(model)

    def train(updates: int) -> None:
        for batch in islice(task.batches(model, 1), updates):
            optimizer.zero_grad(set_to_none=True)
            loss = total_loss(task.training_loss(model, batch))
            loss.backward()
            if task.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip)
            optimizer.step()

    train(5)
    before = task.log()["steps"]
    start = time.perf_counter()
    train(steps // (rollout * options.agents))
    played: int = task.log()["steps"] - before
    return played / (time.perf_counter() - start)


def check(options: Options) -> None:
    """Exit with one sentence where the options cannot be measured."""
    if options.tool == "both":
        require_installed("stable_baselines3", "stable-baselines3", "measure ours alone with --tool ours")
    for name, rollout in product(options.tasks, options.rollouts):
        count = agents(name)
        if options.steps < rollout * count:
            fail(f"--steps {options.steps} is less than one update of {name}: {rollout} steps of {count} agents")
        if max(options.workers) > count:
            fail(f"--workers {max(options.workers)} is more than the {count} agents of {name}")


def measure(name: str, rollout: int, options: Options) -> tuple[float | None, list[float]]:
    """Environment steps per second of the peer, where it is measured, and of ours with each number of workers."""
    peer, rates = [], []
    for _ in range(options.repeats):
        if options.tool == "both":
            from benchmarks.stable_baselines import steps_per_second

            peer.append(steps_per_second(name, rollout, options.steps, options.towers))
        rates.append([ours(name, rollout, options.steps, workers) for workers in options.workers])
    return max(peer, default=None), [max(column) for column in zip(*rates, strict=True)]


def main(options: Options) -> None:
    """Measure and print."""
    check(options)
    torch.set_num_threads(options.threads)
    keys = ["task", "rollout", "workers", "peer_network"]
    figures = ["ours_steps_per_second", "peer_steps_per_second", "ratio", "steps", "repeats"]
    packages = ["gymnasium", "stable-baselines3"] if options.tool == "both" else ["gymnasium"]
    results = Results("a2c", options, keys, figures, packages)
    for name, rollout in product(options.tasks, options.rollouts):
        peer, rates = measure(name, rollout, options)
        for workers, rate in zip(options.workers, rates, strict=True):
            row: dict[str, object] = {"task": name, "rollout": rollout, "workers": workers}
            row |= {"ours_steps_per_second": rate, "steps": options.steps, "repeats": options.repeats}
            if peer is not None:
                row |= {"peer_network": "towers" if options.towers else "trunk"}
                row |= {"peer_steps_per_second": peer, "ratio": rate / peer}
            results.add(row)
    results.print()


if __name__ == "__main__":
    run("a2c", main, Options(), QUICK, __doc__)
