"""What holds of every control task, their vectorised environments, and pictures of what they learned."""

from __future__ import annotations

import importlib
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from PIL import Image

from tasks import _a2c, _episode
from tasks._acrobot_vector import AcrobotVectorEnv
from tasks._cartpole_vector import CartPoles
from tasks._environments import SequentialVectorEnv, make_environment
from tasks._policy import Policy
from tasks._rollouts import EVALUATION_SEED, OUTLOOK_SEED, mean_return
from tasks.nets.actor_critic import ActorCritic
from tasks.runner import command_line
from tests.tasks.test_a2c import learn

TASKS = ("cartpole", "acrobot", "lunarlander")
ONE_TASK = ["cartpole", *(pytest.param(name, marks=pytest.mark.slow) for name in TASKS[1:])]
INPUTS = {"cartpole": (4, 2), "acrobot": (6, 3), "lunarlander": (8, 4)}
TINY = [
    "--steps", "1500", "--epochs", "3", "--agents", "4", "--rollout", "16", "--widths", "16", "16",
    "--scoring-rollouts", "1", "--scoring-length", "32",
]  # fmt: skip


def tiny(name: str, **more: Any) -> _a2c.A2C:
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


@pytest.mark.parametrize(("name", "agents"), [("Acrobot-v1", 16), ("LunarLander-v3", 4)])
def test_environments_give_what_gymnasiums_do(name: str, agents: int) -> None:
    """The same seeds, actions, ends and new games, over 1200 steps: longer than any game of either may last."""
    with closing(make_environment(name, agents)) as ours, closing(gymnasium.make_vec(name, agents)) as theirs:
        assert type(ours) is (AcrobotVectorEnv if name == "Acrobot-v1" else SequentialVectorEnv)
        assert ours.single_observation_space == theirs.single_observation_space
        assert ours.single_action_space == theirs.single_action_space
        assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
        assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
        choices = np.random.default_rng(0)
        ends = 0
        for seed in (7, None, [3, *range(agents - 1)]):
            np.testing.assert_allclose(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0], rtol=0, atol=1e-7)
            for _ in range(1200 if seed == 7 else 20):
                actions = choices.integers(0, ours.single_action_space.n, agents)
                got, expected = ours.step(actions), theirs.step(actions)
                for mine, its in zip(got[:4], expected[:4], strict=True):
                    assert mine.dtype == its.dtype
                    np.testing.assert_allclose(mine, its, rtol=0, atol=1e-6)
                ends += (got[2] | got[3]).sum()
                if name == "Acrobot-v1":  # chaotic: a last bit grows over a game
                    ours.state[:] = np.stack([each.unwrapped.state for each in theirs.envs], axis=1)
        assert ends > 10


@pytest.mark.parametrize("agents", [1, 16, 50])
def test_cart_poles_are_gymnasiums_to_the_last_bit(agents: int) -> None:
    ours, theirs = make_environment("CartPole-v1", agents), gymnasium.make_vec("CartPole-v1", agents)
    assert type(ours) is CartPoles
    choices, ends = np.random.default_rng(0), np.zeros(2, int)
    for seed in (7, None):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        observation = ours.state.T
        for step in range(900):
            catch = step > 300  # falls, and then games that last to the limit
            signal = observation @ np.array([0.1, 0.3, 3.0, 1.0])
            actions = (signal > 0).astype(int) if catch else choices.integers(0, 2, agents)
            got, expected = ours.step(actions), theirs.step(actions)
            for mine, its in zip(got[:4], expected[:4], strict=True):
                assert (mine.dtype, mine.strides) == (its.dtype, its.strides)
                np.testing.assert_array_equal(mine, its)
            observation = got[0]
            ends += [got[2].sum(), got[3].sum()]
    assert (ends > 0).all()


def test_the_lander_is_gymnasiums_to_the_last_bit() -> None:
    """Over landings, crashes and games without a plan."""
    ours, theirs = make_environment("LunarLander-v3", 1).envs[0], gymnasium.make("LunarLander-v3").unwrapped
    assert isinstance(ours, importlib.import_module("tasks._lander").Lander)  # at the top, its warnings would be errors
    heuristic = importlib.import_module("gymnasium.envs.box2d.lunar_lander").heuristic
    choices, ends = np.random.default_rng(0), set()
    for game in range(40):
        observation = ours.reset(seed=game)[0]
        np.testing.assert_array_equal(observation, theirs.reset(seed=game)[0])
        over = False
        while not over:
            action = int(choices.integers(0, 4) if game % 2 else heuristic(theirs, observation))
            (observation, *got), (expected, *told) = ours.step(action), theirs.step(action)
            assert observation.dtype == expected.dtype
            np.testing.assert_array_equal(observation, expected)
            assert got == told
            over = got[1]
        ends.add(got[0])
    assert ends == {-100, 100}


def test_acrobot_swings_as_gymnasiums_does_at_any_speed() -> None:
    ours, theirs = AcrobotVectorEnv(200, 500), AcrobotEnv()
    ours.reset(seed=0)
    theirs.reset(seed=0)
    choices = np.random.default_rng(1)
    states = choices.uniform(-1, 1, (4, 200)) * np.array([np.pi, np.pi, 4 * np.pi, 9 * np.pi])[:, None]
    actions = choices.integers(0, 3, 200)
    ours.state = states.copy()
    observations, rewards, terminated, _, _ = ours.step(actions)
    for i in range(200):
        theirs.state = states[:, i]
        observation, reward, ended, _, _ = theirs.step(actions[i])
        np.testing.assert_allclose(ours.state[:, i], theirs.state, rtol=0, atol=1e-9)
        np.testing.assert_allclose(observations[i], observation, rtol=0, atol=1e-6)
        assert (rewards[i], terminated[i]) == (reward, ended)
    assert 0 < terminated.sum() < 200


def test_a_game_of_acrobot_stops_at_the_limit_and_the_next_starts_near_rest() -> None:
    environment = AcrobotVectorEnv(2, 5)
    environment.reset(seed=0)
    ends = [environment.step(np.array([1, 1])) for _ in range(12)]
    assert [bool(end[3].all()) for end in ends] == [step in (5, 11) for step in range(1, 13)]
    assert [end[1].tolist() for end in ends[4:7]] == [[-1, -1], [0, 0], [-1, -1]]
    assert (np.abs(np.arctan2(*ends[5][0].T[[1, 0]])) <= 0.1).all()


@pytest.mark.parametrize("name", TASKS)
def test_every_control_task_draws_batches_that_it_can_learn_from(name: str) -> None:
    task = tiny(name)
    model = task.model()
    for batch in task.batches(model, 1):
        assert batch.observations.shape == (4 * 16, INPUTS[name][0])
        assert batch.observations.dtype == batch.returns.dtype == torch.float32
        assert set(batch.actions.tolist()) <= set(range(INPUTS[name][1]))
        found = []
        for loss in (task.loss, task.training_loss):
            model.zero_grad()
            loss(model, batch).backward()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
    for one, other in zip(task.scoring_batches(model, 1), task.scoring_batches(model, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", TASKS)
def test_every_control_task_draws_the_same_after_a_resume(name: str) -> None:
    task = tiny(name)
    model = task.model()
    list(task.batches(model, 1))
    again = tiny(name)
    again.load_state_dict(json.loads(json.dumps(task.state_dict())))
    for one, other in zip(task.batches(model, 2), again.batches(model, 2), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert task.log() == again.log()


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_is_the_mean_over_single_games(name: str) -> None:
    """Of gymnasium's own single environments: falling left, resting, falling on the moon."""
    task, model = tiny(name), always(name, 1 if name == "acrobot" else 0)
    vectorised = make_environment(task.dataset, 4)
    starts, _ = vectorised.reset(seed=EVALUATION_SEED)
    vectorised.close()
    single = gymnasium.make(task.dataset)
    returns = []
    for i, start in enumerate(starts):
        observation, _ = single.reset(seed=EVALUATION_SEED + i)
        if name == "cartpole":  # its vectorised form draws all starts from one generator
            single.unwrapped.state = np.array(start, float)
        else:
            np.testing.assert_allclose(observation, start, rtol=0, atol=1e-7)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = single.step(1 if name == "acrobot" else 0)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    single.close()
    assert mean_return(Policy(model), task.dataset, 4, EVALUATION_SEED) == pytest.approx(np.mean(returns), abs=1e-3)
    if name == "acrobot":
        assert np.mean(returns) == -500


@pytest.mark.parametrize("name", TASKS)
def test_the_outlook_is_of_other_games_and_of_rows_that_were_played(name: str) -> None:
    task, model = tiny(name, scoring_length=120), always(name, 0)
    batches = list(task.scoring_batches(model, 1))
    before = torch.get_rng_state()
    told = task.pruning_diagnostics(model, batches)
    rows = int(sum(batch.mask.sum() for batch in batches))
    assert rows < sum(len(batch.mask) for batch in batches) or name == "acrobot"
    probabilities = torch.tensor([1.0] + [0.0] * (INPUTS[name][1] - 1)).softmax(0)
    torch.testing.assert_close(told["policy"].exp(), probabilities.expand(rows, -1))
    games = 12 if name == "lunarlander" else 32
    assert told["return"] == mean_return(Policy(model), task.dataset, games, OUTLOOK_SEED)
    assert torch.equal(torch.get_rng_state(), before)
    assert not told["policy"].requires_grad


@pytest.mark.parametrize("name", ONE_TASK)
def test_a_run_tells_what_its_pruning_upset_and_draws_what_was_learned(name: str, tmp_path: Path) -> None:
    arguments = [*TINY, "--method", "snap", "--sparsity", "0.6", "--runs", str(tmp_path), "--record"]
    result = command_line.main(name, arguments)
    (run,) = tmp_path.iterdir()
    event = json.loads((run / "log.jsonl").read_text().splitlines()[0])["event"]
    assert event["policy_moved"] > 0
    lowest = {"cartpole": 8, "acrobot": -500, "lunarlander": -2000}[name]
    highest = {"cartpole": 500, "acrobot": -60, "lunarlander": 300}[name]
    assert lowest <= event["return_before"] <= highest
    assert lowest <= event["return_after"] <= highest
    assert lowest <= result.value <= highest
    with Image.open(run / "episode.gif") as picture:
        assert (picture.format, picture.width) == ("GIF", _episode.WIDTH)
    assert not list(run.glob(".episode*"))
    small = importlib.import_module(f"tasks.{name}").make(
        replace(importlib.import_module(f"tasks.{name}").Options(), widths=(16, 16))
    )
    assert small.network == result.network == "mlp-16-16"


@pytest.mark.parametrize("name", ONE_TASK)
def test_a_picture_shows_a_game_at_its_speed_and_says_its_return(name: str, tmp_path: Path) -> None:
    model = always(name, 1 if name == "acrobot" else 0)
    task = tiny(name)
    (path,) = task.record(model, tmp_path)
    single = gymnasium.make(task.dataset, render_mode="rgb_array")  # thrown-off particles are part of the world
    single.reset(seed=_episode.SEED)
    total, steps, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = single.step(1 if name == "acrobot" else 0)
        total, over, steps = total + float(reward), terminated or truncated, steps + 1
    rate = single.metadata["render_fps"]
    single.close()
    with Image.open(path) as picture:
        assert picture.info["comment"].decode() == f"{task.dataset}, return {total:g}"
        shown = sum(_duration(picture, frame) for frame in range(picture.n_frames))
        first = np.asarray(picture.convert("RGB"))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 2
    assert shown / 1000 == pytest.approx(steps / rate, rel=0.25, abs=0.2)
    assert path.stat().st_size < 2_000_000


def _duration(picture: Image.Image, frame: int) -> int:
    picture.seek(frame)
    return int(picture.info["duration"])


@pytest.mark.parametrize("name", TASKS)
def test_presets_say_their_name_and_hold_the_papers_setting(name: str) -> None:
    module = importlib.import_module(f"tasks.{name}")
    assert all(make().preset == preset for preset, make in module.PRESETS.items())
    if name == "cartpole":
        text = module.PRESETS["paper-text"]()
        assert (text.environment, text.agents, text.games, text.epochs) == ("CartPole-v0", 20, 20 * 640, 30)
    else:
        text = module.PRESETS["paper"]()
        assert (text.agents, text.games) == (16, 8000)
    assert module.make(text).network == "mlp-256-256-256"


@pytest.mark.parametrize("name", TASKS)
def test_an_environment_of_another_task_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^environment must be .*, not 'Pendulum-v1'\.$"):
        tiny(name, environment="Pendulum-v1")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("acrobot", -90.0), ("lunarlander", 150.0)])
def test_the_defaults_learn(name: str, least: float) -> None:
    """A seed's return varies around the mean of five, so it may be a little lower."""
    module = importlib.import_module(f"tasks.{name}")
    task = module.make(module.Options())
    torch.manual_seed(0)
    model = task.model()
    learn(task, model, range(1, task.options.epochs + 1))
    assert task.evaluate(model) >= least
