"""stable-baselines3's A2C on our networks, for ``benchmarks.a2c``, which imports it where the peer is installed."""

from __future__ import annotations

import importlib
import time
from typing import Any

from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from tasks.control.a2c import A2COptions


class Trunk(BaseFeaturesExtractor):
    """Our trunk as stable-baselines3 takes it, which has no shared layers since version 1.8."""

    def __init__(self, space: Any, trunk: nn.Module, width: int) -> None:
        super().__init__(space, width)
        self.trunk = trunk

    def forward(self, observations: Tensor) -> Tensor:
        """The trunk's output."""
        features: Tensor = self.trunk(observations)
        return features


def steps_per_second(name: str, rollout: int, steps: int, towers: bool) -> float:
    """Environment steps per second of ``learn``, on the vectorised environment that it makes by default.

    Args:
        name: The task.
        rollout: Steps between two updates.
        steps: Environment steps that are timed.
        towers: Whether actor and critic have a tower each in place of the shared trunk.
    """
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
        raise ValueError(f"stable-baselines3's network lacks our {count} parameters, so the two cannot be compared")
    model.learn(5 * rollout * options.agents)
    start = time.perf_counter()
    model.learn(steps)
    return model.num_timesteps / (time.perf_counter() - start)
