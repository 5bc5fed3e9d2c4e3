"""What the options of the control tasks may be, their presets, and that the default presets learn."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch

from tasks.control.a2c import A2C, A2COptions
from tasks.runner.options import check_values
from tests.tasks.control.policies import TASKS, learn, tiny


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "Nothing-v7"}, "there is no environment 'Nothing-v7': take one of"),
        ({"epochs": 0}, "epochs must be 1 or more, not 0"),
        ({"agents": 0}, "agents must be 1 or more, not 0"),
        ({"rollout": -1}, "rollout must be 1 or more, not -1"),
        ({"workers": 0}, "workers must be 1 or more, not 0"),
        ({"games": -1}, "games must be 0 or more, not -1"),
        ({"entropy": math.nan}, "entropy must be 0 or more, not nan"),
        ({"last_entropy": -0.1}, "last_entropy must be 0 or more, not -0.1"),
        ({"reward_scale": math.inf}, "reward_scale must be above 0, not inf"),
        ({"discount": 1.1}, "discount must be 0 or more and at most 1, not 1.1"),
        ({"gae": -0.1}, "gae must be 0 or more and at most 1, not -0.1"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, not nan"),
        ({"clip": 0.0}, "clip must be above 0, not 0.0"),
        ({"widths": ()}, "widths must be 1 or more, not ()"),
        ({"widths": (8, 0)}, "widths must be 1 or more, not (8, 0)"),
        ({"activation": "gelu"}, "there is no activation 'gelu', did you mean 'relu'? Take one of tanh, relu"),
    ],
)
@pytest.mark.parametrize("name", TASKS)
def test_bad_options_are_refused_in_one_sentence(name: str, change: dict[str, Any], message: str) -> None:
    """Also those whose default a task has changed."""
    options = importlib.import_module(f"tasks.{name}").Options(**change)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        check_values(options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", TASKS)
def test_an_environment_of_another_task_is_refused(name: str) -> None:
    options = importlib.import_module(f"tasks.{name}").Options(environment="Pendulum-v1")
    with pytest.raises(ValueError, match=r"^there is no environment 'Pendulum-v1'"):
        check_values(options)


def test_more_workers_than_agents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^workers must be at most the 4 agents, not 5\.$"):
        tiny("cartpole", workers=5)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="environment must have discrete actions, which Pendulum-v1 has not"):
        A2C(A2COptions(environment="Pendulum-v1"))


def test_observations_that_the_network_cannot_take_are_refused() -> None:
    task = A2C(A2COptions(environment="FrozenLake-v1"))
    with pytest.raises(ValueError, match=r"environment must be observed as a vector, and FrozenLake-v1 has shape \(\)"):
        task.model()


@pytest.mark.parametrize(
    ("name", "preset", "setting"),
    [
        ("cartpole", "paper-table4", ("CartPole-v0", "mlp-128-128-128", 16, 8000)),
        ("cartpole", "paper-text", ("CartPole-v0", "mlp-256-256-256", 20, 640)),
        ("acrobot", "paper", ("Acrobot-v1", "mlp-256-256-256", 16, 8000)),
        ("lunarlander", "paper", ("LunarLander-v3", "mlp-256-256-256", 16, 8000)),
    ],
)
def test_the_papers_presets_have_its_games_an_agent(name: str, preset: str, setting: tuple[str, str, int, int]) -> None:
    module = importlib.import_module(f"tasks.{name}")
    options = module.PRESETS[preset]()
    network = module.make(options).network
    assert (options.environment, network, options.agents, options.games / options.agents) == setting
    assert (options.epochs, options.activation, options.gae, options.value) == (30, "relu", 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lowest"), [("cartpole", 475.0), ("acrobot", -90.0), ("lunarlander", 150.0)])
def test_the_defaults_learn(name: str, lowest: float) -> None:
    """A seed's return varies around the mean of five, so it may be a little lower."""
    module = importlib.import_module(f"tasks.{name}")
    task = module.make(module.Options())
    torch.manual_seed(0)
    model = task.model()
    learn(task, model, range(1, task.options.epochs + 1))
    assert task.evaluate(model) >= lowest
