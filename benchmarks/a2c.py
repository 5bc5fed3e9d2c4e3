"""Environment steps per second of A2C on the control tasks, ours and stable-baselines3's, in turn.

The same network, environments, rollout length, and number of torch threads; evaluation, logging and set-up are not
timed. Rows of two workers are of our agents in two processes; the peer steps its environments in the one that learns,
as it does by default. Needs ``pip install stable-baselines3``. Run as ``python -m benchmarks.a2c``.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from tasks._a2c_options import A2COptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    tasks: tuple[str, ...] = ("cartpole", "acrobot", "lunarlander")
    """What is played, in its default preset's network and number of agents."""
    rollouts: tuple[int, ...] = (5, 16, 32)
    """Steps between two updates, a row each; 5 is stable-baselines3's default."""
    steps: int = 50_000
    """Environment steps that are timed."""
    repeats: int = 3
    """Timings of each, in turn; the fastest counts."""
    workers: tuple[int, ...] = (1, 2)
    """Processes that ours plays in, a row each."""
    threads: int = 1
    """Torch's threads."""
    towers: bool = False
    """Whether the peer has its own MlpPolicy, a tower of these widths for the actor and one for the critic."""


class Trunk(BaseFeaturesExtractor):
    """Our trunk as theirs: their own shared layers are gone since version 1.8."""

    def __init__(self, space: Any, trunk: nn.Module, width: int) -> None:
        super().__init__(space, width)
        self.trunk = trunk

    def forward(self, observations: Tensor) -> Tensor:
        """The trunk's output."""
        features: Tensor = self.trunk(observations)
        return features


def ours(name: str, rollout: int, steps: int, workers: int) -> float:
    """Steps per second of our training loop's inside."""
    module = importlib.import_module(f"tasks.{name}")
    options = replace(module.PRESETS["default"](), rollout=rollout, steps=2 * steps, epochs=1, workers=workers)
    task = module.make(options)
    model = task.model()
    optimizer = task.optimizer(model)

    def train(updates: int) -> None:
        for batch in islice(task.batches(model, 1), updates):
            optimizer.zero_grad(set_to_none=True)
            loss = task.training_loss(model, batch)
            loss.backward()
            if task.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip)
            optimizer.step()

    updates = steps // (rollout * options.agents)
    train(5)
    before = task.log()["steps"]
    start = time.perf_counter()
    train(updates)
    return (task.log()["steps"] - before) / (time.perf_counter() - start)


def peer(name: str, rollout: int, steps: int, towers: bool) -> float:
    """Steps per second of stable-baselines3's ``learn``, on the vectorised environment that it makes by default."""
    module = importlib.import_module(f"tasks.{name}")
    options: A2COptions = module.PRESETS["default"]()
    network = module.make(options).model()
    shared = {
        "net_arch": [],
        "features_extractor_class": Trunk,
        "features_extractor_kwargs": {"trunk": network.get_submodule("trunk"), "width": options.widths[-1]},
    }
    model = A2C(
        "MlpPolicy",
        make_vec_env(options.environment, n_envs=options.agents, seed=0),
        n_steps=rollout,
        gae_lambda=options.gae,
        ent_coef=options.entropy,
        use_rms_prop=False,
        device="cpu",
        policy_kwargs={"net_arch": list(options.widths)} if towers else shared,
    )
    count = sum(p.numel() for p in network.parameters())
    if not towers and sum(p.numel() for p in model.policy.parameters()) != count:
        raise ValueError(f"stable-baselines3's network has not our {count} parameters, so the two cannot be compared.")
    model.learn(5 * rollout * options.agents)
    start = time.perf_counter()
    model.learn(steps)
    return model.num_timesteps / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    table = Table("task", "steps a rollout", "workers", "ours (steps/s)", "stable-baselines3 (steps/s)", "ratio")
    for name, rollout in product(options.tasks, options.rollouts):
        repeats = [
            [
                peer(name, rollout, options.steps, options.towers),
                *(ours(name, rollout, options.steps, workers) for workers in options.workers),
            ]
            for _ in range(options.repeats)
        ]
        theirs, *best = (max(column) for column in zip(*repeats, strict=True))
        for workers, rate in zip(options.workers, best, strict=True):
            table.add_row(name, str(rollout), str(workers), f"{rate:,.0f}", f"{theirs:,.0f}", f"{rate / theirs:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
