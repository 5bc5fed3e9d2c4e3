"""Small control tasks, policies by hand, and the training loop in short."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from earlycrop.scoring.loss_terms import total_loss
from tasks.control.a2c import A2C
from tasks.nets.actor_critic import ActorCritic

TASKS = ("cartpole", "acrobot", "lunarlander")
INPUTS = {"cartpole": (4, 2), "acrobot": (6, 3), "lunarlander": (8, 4)}
"""Task -> the sizes of its observations and of its actions' choice."""


def tiny(name: str, **more: Any) -> A2C:
    module = importlib.import_module(f"tasks.{name}")
    small = {"widths": (8, 8), "steps": 600, "epochs": 3, "agents": 4, "rollout": 16}
    scoring = {"scoring_rollouts": 2, "scoring_length": 32}
    return module.make(replace(module.Options(), **{**small, **scoring, **more}))


def always(name: str, action: int) -> ActorCritic:
    """A network whose most likely action is always the same."""
    inputs, actions = INPUTS[name]
    model = ActorCritic(inputs, (4,), actions, "tanh")
    with torch.no_grad():
        model.actor.weight.zero_()
        model.actor.bias[action] = 1.0
    return model


def cart_pole_policy(*weights: float) -> ActorCritic:
    """Pushes right where weights @ observation > 0, through one layer of ReLU(+s), ReLU(-s)."""
    model = ActorCritic(4, (2,), 2, "relu")
    signal = torch.tensor(weights)
    with torch.no_grad():
        model.trunk[0].weight.copy_(torch.stack([signal, -signal]))
        model.actor.weight.copy_(1e4 * torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    return model


def balancing() -> ActorCritic:
    return cart_pole_policy(0.1, 0.3, 3.0, 1.0)


def falling() -> ActorCritic:
    return cart_pole_policy(0.0, 0.0, 0.0, -1.0)


def learn(task: A2C, model: nn.Module, epochs: Iterable[int]) -> None:
    """What the training loop does."""
    optimizer = task.optimizer(model)
    for epoch in epochs:
        for group in optimizer.param_groups:
            group["lr"] = task.learning_rate((epoch - 1) / task.options.epochs)
        for batch in task.batches(model, epoch):
            optimizer.zero_grad(set_to_none=True)
            total_loss(task.training_loss(model, batch)).backward()
            if task.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), task.clip)
            optimizer.step()
