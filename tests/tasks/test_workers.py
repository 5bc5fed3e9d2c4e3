"""Agents in several processes: what they play is what one process plays, and none is left behind or hangs."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks import _workers, acrobot, cartpole
from tasks._policy import Policy
from tasks._rollouts import EVALUATION_SEED, Player, Rollout, mean_return, spans
from tasks._workers import Worker
from tasks.nets.actor_critic import ActorCritic
from tasks.runner import command_line
from tasks.runner.errors import RunError
from tasks.runner.store import configuration

ENVIRONMENTS = {"CartPole-v1": (4, 2), "Acrobot-v1": (6, 3), "LunarLander-v3": (8, 4)}
KEY = (0, 1, 0)
SMALL = {"agents": 4, "rollout": 16, "widths": (16, 16), "scoring_rollouts": 2, "scoring_length": 32}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Two, for all tests that leave them alive."""
    made = [Worker(), Worker()]
    yield made
    for worker in made:
        worker.close()


def policy_for(name: str, *widths: int) -> Policy:
    inputs, actions = ENVIRONMENTS[name]
    torch.manual_seed(0)
    return Policy(ActorCritic(inputs, widths or (32, 32), actions, "tanh"))


def assert_same(got: Rollout, expected: Rollout) -> None:
    """Products of fewer rows may be summed in another order; that is all."""
    for field in ("actions", "terminated", "truncated", "mask"):
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
    for field in ("observations", "rewards", "logits", "values", "hidden", "returns"):
        for one, other in zip(getattr(got, field), getattr(expected, field), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(got[:-2], expected[:-2], strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("name", "rollouts"), [("Acrobot-v1", 40), ("LunarLander-v3", 12)])
def test_several_play_what_one_does(name: str, rollouts: int, count: int, workers: list[Worker]) -> None:
    policy, ends = policy_for(name), 0
    with closing(Player(name, 7, KEY)) as one, closing(Player(name, 7, KEY, workers[:count])) as several:
        for _ in range(rollouts):
            expected = one.play(policy, 16)
            assert_same(several.play(policy, 16), expected)
            ends += len(expected.returns)
    assert ends > 5, "games ended, and others began"
    expected = mean_return(policy, name, 5, EVALUATION_SEED)
    assert mean_return(policy, name, 5, EVALUATION_SEED, workers[:count]) == expected
    assert mean_return(policy, name, 1, EVALUATION_SEED, workers) == mean_return(policy, name, 1, EVALUATION_SEED)


@pytest.mark.parametrize("count", [1, 2])
def test_several_play_the_first_games_on_cart_poles_that_one_does(count: int, workers: list[Worker]) -> None:
    """Later ones start elsewhere: Gymnasium draws all starts from one generator, in the order of the games' ends."""
    name, policy = "CartPole-v1", policy_for("CartPole-v1")
    with closing(Player(name, 16, KEY)) as one, closing(Player(name, 16, KEY, workers[:count])) as several:
        got, expected = several.play(policy, 100), one.play(policy, 100)
    with closing(Player(name, 16, KEY, workers[:count])) as again:
        for value, other in zip(again.play(policy, 100)[:-2], got[:-2], strict=True):
            np.testing.assert_array_equal(value, other)
    starts = []
    for agent, ends in enumerate(expected.terminated.T):
        length = int(ends.argmax()) + 1
        for field in ("observations", "actions", "rewards", "terminated", "mask", "logits", "values"):
            mine, its = (getattr(rollout, field)[:length, agent] for rollout in (got, expected))
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-5)
        starts.append([rollout.observations[length + 1, agent] for rollout in (got, expected)])
    assert (np.abs(starts) <= 0.05).all()
    assert len({tuple(start) for pair in starts for start in pair}) == 32, "a start was drawn twice"
    assert mean_return(policy, name, 9, 1, workers[:count]) == mean_return(policy, name, 9, 1)


def test_what_does_not_fit_the_shared_memory_goes_another_way(
    monkeypatch: pytest.MonkeyPatch, workers: list[Worker]
) -> None:
    """And where widths change from one rollout to the next, as they do in a structured pruning."""
    monkeypatch.setattr(_workers, "MEMORY", 2**14)
    name, cramped = "Acrobot-v1", Worker()
    others = [Player(name, 4, KEY, [worker]) for worker in (cramped, workers[0])]
    with closing(Player(name, 4, KEY)) as one, closing(others[0]), closing(others[1]):
        for widths in ((128, 128), (37, 128), (37, 5)):
            policy = policy_for(name, *widths)
            expected = one.play(policy, 40)
            assert [h.shape[-1] for h in expected.hidden] == list(widths)
            for other in others:
                assert_same(other.play(policy, 40), expected)
    assert len(cramped.memory) == 2**14
    cramped.close()


def test_a_task_draws_the_same_batches_whatever_the_workers() -> None:
    options = replace(acrobot.Options(), **SMALL, steps=400, epochs=2)
    one, several = acrobot.make(options), acrobot.make(replace(options, workers=2))
    torch.manual_seed(0)
    model = one.model()
    for draw in ("batches", "scoring_batches"):
        for epoch in (1, 2):
            pairs = zip(getattr(one, draw)(model, epoch), getattr(several, draw)(model, epoch), strict=True)
            for expected, got in pairs:
                torch.testing.assert_close(got[:5], expected[:5], rtol=1e-4, atol=1e-5)
    assert several.log() == pytest.approx(one.log())
    assert several.evaluate(model) == one.evaluate(model)
    process = several.workers[0].process
    assert process.poll() is None
    del several, pairs
    gc.collect()
    assert process.poll() is not None, "it ends with its task"


def test_a_run_that_prunes_plays_on(tmp_path: Path) -> None:
    small = ["--workers", "2", "--agents", "4", "--widths", "16", "16", "--steps", "600", "--epochs", "3"]
    pruned = ["--method", "snap", "--sparsity", "0.6", "--scoring-rollouts", "1", "--runs", str(tmp_path)]
    result = command_line.main("cartpole", [*small, *pruned])
    assert result.weight_sparsity > 0.59
    assert 8 <= result.value <= 500


def test_a_question_that_nobody_waited_for_disturbs_no_other(workers: list[Worker]) -> None:
    policy = policy_for("CartPole-v1")
    workers[0].ask("first_returns", policy, "CartPole-v1", 1, 0, 3, 3)
    workers[0].ask("first_returns", policy, "CartPole-v1", 1, 0, 5, 5)
    assert len(workers[0].answer()) == 5


def test_the_memory_has_no_name_once_both_have_it() -> None:
    worker = Worker()
    worker.ask("close", [])
    name = worker.file
    assert os.path.getsize(name) == _workers.MEMORY
    worker.answer()
    assert not os.path.exists(name)
    worker.close()
    worker.ask("close", [])
    name = worker.file
    worker.close()
    assert not os.path.exists(name), "nor where it ended before an answer"


def test_an_error_in_a_worker_is_told(workers: list[Worker]) -> None:
    workers[0].ask("open", 99, "CartPole-v7", 0, 0, 1, 2)
    with pytest.raises(RunError, match=r"(?s)^a worker process failed:\n.*VersionNotFound: .*CartPole"):
        workers[0].answer()
    workers[0].ask("close", [])
    assert workers[0].answer() is None


def test_a_killed_worker_is_told_and_another_takes_its_place() -> None:
    policy, worker = policy_for("CartPole-v1"), Worker()
    for asked in (True, False):
        player = Player("CartPole-v1", 4, KEY, [worker])
        if asked:  # it dies at work
            worker.ask("first_returns", policy_for("LunarLander-v3"), "LunarLander-v3", 1, 0, 200, 200)
        worker.process.kill()
        if not asked:
            worker.process.wait()
        with pytest.raises(RunError, match=r"^a worker process is gone \(exit code -9; .*the same command goes on"):
            player.play(policy, 16)
        player.close()
    with closing(Player("CartPole-v1", 4, KEY, [worker])) as player:
        assert player.play(policy, 16).actions.shape == (16, 4)
    worker.close()


PARENT = """
from tasks._policy import Policy
from tasks._rollouts import Player
from tasks._workers import Worker
from tasks.nets.actor_critic import ActorCritic
player = Player("CartPole-v1", 4, (0, 1, 0), [Worker(), Worker()])
policy = Policy(ActorCritic(4, (16,), 2, "tanh"))
print("playing", flush=True)
while True:
    player.play(policy, 16)
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_workers_end_with_a_process_that_is_killed(end: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout.readline() == "playing\n"
        time.sleep(0.1)
        parent.send_signal(signal.Signals[end])
        try:
            _, told = parent.communicate(timeout=30)  # to the pipe's end: while a worker lives, it holds the other one
        finally:
            parent.kill()
    assert parent.returncode == -signal.Signals[end]
    assert told.strip().endswith("KeyboardInterrupt" if end == "SIGINT" else "")


def test_a_worker_has_no_torch() -> None:
    line = "import sys, tasks._worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=False).returncode == 0


def test_more_workers_than_agents_are_refused() -> None:
    for workers, message in (
        (5, "workers must be at most the 4 agents that they share, not 5."),
        (0, "workers must be at least 1, not 0."),
    ):
        with pytest.raises(ValueError, match="workers") as error:
            cartpole.make(replace(cartpole.Options(), **{**SMALL, "workers": workers}))
        assert str(error.value) == message


def test_one_worker_is_no_part_of_a_configuration() -> None:
    def told(**options: Any) -> dict[str, Any]:
        return configuration("cartpole", cartpole.Options(**options))

    assert "workers" not in told() | told(workers=1)
    assert told(workers=2) == {**told(), "workers": 2}


@pytest.mark.parametrize(("number", "parts"), [(16, 2), (7, 3), (5, 5), (3, 1)])
def test_parts_are_consecutive_and_even(number: int, parts: int) -> None:
    found = spans(number, parts)
    assert [i for first, last in found for i in range(first, last)] == list(range(number))
    sizes = [last - first for first, last in found]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1 <= min(sizes)
