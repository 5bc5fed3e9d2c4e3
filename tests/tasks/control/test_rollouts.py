"""Playing: generalized advantages, steps in which environments reset, random actions, evaluation, processes."""

from __future__ import annotations

import math
import os
import signal
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import Tensor, nn

from tasks.control.rollouts import EVALUATION_SEED, Player, Rollout, advantages, make_environments, mean_return
from tasks.nets.actor_critic import ActorCritic
from tasks.runner.errors import LostError
from tests.tasks.control.policies import TASKS, always, balancing, falling, tiny

KEY = (0, 1, 0)


def played(model: nn.Module, length: int, name: str = "CartPole-v1", agents: int = 4, workers: int = 1) -> Rollout:
    with closing(Player(name, agents, KEY, workers)) as player:
        return player.play(model, length)


@pytest.mark.parametrize(
    ("gae", "expected"),
    [
        # lambda 1: n-step returns minus values; 1 + .5 * 8 = 5, 1 + .5 * 5 = 3.5, 1 + .5 * 3.5 = 2.75 where it goes on
        (1.0, [[0.75, -0.5, 1.0], [-0.5, -3.0, 0.0], [-1.0, -1.0, -1.0]]),
        # lambda .5: errors 1, 0, -1 (going on), 1, -3 (terminated), 1, 0 (truncated), each .25 of the next added
        (0.5, [[0.9375, 0.25, 1.0], [-0.25, -3.0, 0.0], [-1.0, -1.0, -1.0]]),
        # lambda 0: the errors themselves
        (0.0, [[1.0, 1.0, 1.0], [0.0, -3.0, 0.0], [-1.0, -1.0, -1.0]]),
    ],
)
def test_advantages_of_a_game_that_goes_on_one_that_terminates_and_one_that_is_truncated(
    gae: float, expected: list[list[float]]
) -> None:
    terminated, truncated = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    terminated[1, 1] = truncated[1, 2] = True
    values = torch.tensor([2.0, 4.0, 6.0, 8.0])[:, None].expand(-1, 3)
    got = advantages(torch.ones(3, 3), values, terminated, truncated, discount=0.5, gae=gae)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-6)


def test_a_rollout_leaves_out_the_steps_in_which_environments_reset() -> None:
    rollout = played(falling(), 60)
    reset = ~rollout.mask
    assert not reset[0].any()
    assert torch.equal(reset[1:], (rollout.terminated | rollout.truncated)[:-1])
    before, after = rollout.observations[:-1][reset], rollout.observations[1:][reset]
    assert (after.abs() <= 0.05).all(), "where games start"
    assert (before[:, 2].abs() > math.radians(12)).all(), "where they ended"
    assert (rollout.rewards[reset] == 0).all()
    assert len(rollout.returns) == rollout.terminated.sum()
    ends = [np.flatnonzero(column) for column in rollout.terminated.T.numpy()]
    lengths = [np.diff(end, prepend=-1) - [0, *[1] * (len(end) - 1)] for end in ends]
    assert sum(rollout.returns) == np.concatenate(lengths).sum()


def test_games_go_on_from_one_rollout_to_the_next() -> None:
    model = falling()
    with closing(Player("CartPole-v1", 4, KEY)) as player:
        parts = [player.play(model, length) for length in (7, 1, 22)]
    at_once = played(model, 30)
    assert [score for part in parts for score in part.returns] == at_once.returns
    for field in ("actions", "rewards", "terminated", "truncated", "mask"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(at_once, field))
    assert torch.equal(parts[1].observations[0], parts[0].observations[-1])


def test_values_and_logits_are_the_model_s() -> None:
    model = ActorCritic(4, (8,), 2, "tanh")
    rollout = played(model, 20)
    with torch.no_grad():
        logits, values = model(rollout.observations)
    torch.testing.assert_close(rollout.values, values)
    torch.testing.assert_close(rollout.logits, logits[:-1])
    assert not any(x.requires_grad for x in (rollout.observations, rollout.values, rollout.logits))


def test_actions_follow_the_softmax_of_the_logits() -> None:
    model = always("cartpole", 0)
    with torch.no_grad():
        model.actor.bias.copy_(torch.tensor([0.0, math.log(3)]))
    share = played(model, 100, agents=64).actions.double().mean()
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 6400)


class Normalised(nn.Module):
    """Batch norm and dropout, which act otherwise in training mode, on observations of any shape."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(inputs), nn.Dropout(0.5), nn.Linear(inputs, 1 + actions))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        out = self.body(observations)
        return out[:, 1:], out[:, 0]


def test_playing_leaves_a_module_as_it_was() -> None:
    model = Normalised(4, 2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch_state = torch.get_rng_state()
    with closing(Player("CartPole-v1", 4, KEY)) as player:
        assert player.play(model, 20).actions.shape == (20, 4)
    mean_return(model, "CartPole-v1", 2, 1)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_is_the_mean_over_single_games(name: str) -> None:
    """Of Gymnasium's single environments: falling left, resting, falling on the moon."""
    task, action = tiny(name), 1 if name == "acrobot" else 0
    with closing(make_environments(task.dataset, 4)) as several:
        starts, _ = several.reset(seed=EVALUATION_SEED)
    single = gymnasium.make(task.dataset)
    returns = []
    for i, start in enumerate(starts):
        observation, _ = single.reset(seed=EVALUATION_SEED + i)
        if name == "cartpole":  # its array form draws all starts from one generator
            single.unwrapped.state = np.array(start, float)
        else:
            np.testing.assert_array_equal(observation, start)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = single.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    single.close()
    assert mean_return(always(name, action), task.dataset, 4, EVALUATION_SEED) == pytest.approx(np.mean(returns))
    if name == "acrobot":
        assert np.mean(returns) == -500


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_games_stop_at_the_limit(name: str, limit: int) -> None:
    assert mean_return(balancing(), name, 5, EVALUATION_SEED) == limit


def test_the_form_of_the_environments() -> None:
    for name, form in (("CartPole-v1", CartPoleVectorEnv), ("Acrobot-v1", SyncVectorEnv)):
        with closing(make_environments(name, 2)) as environments:
            assert isinstance(environments, form)


def test_processes_play_what_one_process_does() -> None:
    model = always("acrobot", 1)
    for one, other in zip(played(model, 20, "Acrobot-v1"), played(model, 20, "Acrobot-v1", workers=2), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_processes_end_with_their_player() -> None:
    with closing(Player("CartPole-v1", 3, KEY, workers=3)) as player:
        assert isinstance(player.environments, AsyncVectorEnv)
        processes = player.environments.processes
        assert len(processes) == 3
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)


def test_a_process_that_died_is_a_sentence() -> None:
    with closing(Player("CartPole-v1", 2, KEY, workers=2)) as player:
        process = player.environments.processes[1]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(LostError, match=r"^a process that steps an environment has died: the same command goes on"):
            player.play(falling(), 4)
