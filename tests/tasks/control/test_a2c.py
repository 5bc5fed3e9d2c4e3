"""The A2C task: its loss, its batches, what it logs, and that it repeats itself."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import earlycrop
from earlycrop.scoring.loss_terms import total_loss
from tasks.control.a2c import A2C, A2COptions, Batch
from tasks.control.rollouts import DIAGNOSTICS_SEED, Player, mean_return
from tasks.nets.actor_critic import ActorCritic
from tasks.runner import command_line
from tasks.runner.store import configuration
from tests.tasks.control.policies import INPUTS, TASKS, always, balancing, falling, learn, tiny
from tests.tasks.runs import contents, folder, until


def task_and_model(name: str = "cartpole", **more: Any) -> tuple[A2C, nn.Module]:
    task = tiny(name, **more)
    torch.manual_seed(task.options.seed)
    return task, task.model()


def assert_same(got: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_loss_by_hand() -> None:
    task = tiny("cartpole", entropy=0.1, value=0.5)
    model = ActorCritic(4, (2,), 2, "tanh")
    with torch.no_grad():
        model.actor.weight.zero_()
        model.critic.weight.zero_()
        model.actor.bias.copy_(torch.tensor([0.0, math.log(3)]))  # probabilities 1/4 and 3/4
        model.critic.bias.fill_(2.0)
    batch = Batch(
        observations=torch.randn(3, 4),
        actions=torch.tensor([1, 0, 1]),
        returns=torch.tensor([3.0, 4.0, 50.0]),
        advantages=torch.tensor([2.0, -1.0, 50.0]),
        mask=torch.tensor([1.0, 1.0, 0.0]),
    )
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    policy = (2 * math.log(4 / 3) - math.log(4)) / 2
    expected = {"actor": torch.tensor(policy - 0.1 * entropy), "critic": torch.tensor(0.5 * (1 + 4) / 2)}
    torch.testing.assert_close(task.loss(model, batch), expected)
    torch.testing.assert_close(task.training_loss(model, batch), expected)


def test_loss_has_second_derivatives_and_runs_on_fake_tensors_with_one_call() -> None:
    task, model = task_and_model()
    (batch, *_) = task.scoring_batches(model, 1)
    model.double()
    batch = Batch(*(t.double() if t.is_floating_point() else t for t in batch))
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def loss(*parameters: Tensor, batch: Batch = batch, buffers: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        named = {**dict(zip(names, parameters, strict=True)), **buffers}
        return total_loss(task.loss(lambda x: torch.func.functional_call(model, named, x), batch))

    loss(*model.parameters())
    assert len(calls) == 1
    direction = [torch.randn_like(p) for p in model.parameters()]
    parameters = [p.detach().requires_grad_() for p in model.parameters()]

    def slope(shift: float) -> float:
        moved = [(p + shift * d).detach().requires_grad_() for p, d in zip(parameters, direction, strict=True)]
        grads = torch.autograd.grad(loss(*moved), moved)
        return sum((g * d).sum() for g, d in zip(grads, direction, strict=True)).item()

    grads = torch.autograd.grad(loss(*parameters), parameters, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    second = torch.autograd.grad(along, parameters)
    curvature = sum((s * d).sum() for s, d in zip(second, direction, strict=True)).item()
    assert curvature == pytest.approx((slope(1e-4) - slope(-1e-4)) / 2e-4, rel=1e-4)
    with FakeTensorMode() as mode:
        fake = Batch(*(mode.from_tensor(t) for t in batch))
        buffers = {name: mode.from_tensor(b) for name, b in model.named_buffers()}
        assert loss(*(mode.from_tensor(p) for p in parameters), batch=fake, buffers=buffers).shape == ()


def test_returns_of_truncated_games_are_bootstrapped_with_the_value_of_their_last_observation() -> None:
    task = tiny("cartpole", environment="CartPole-v0", reward_scale=1.0, discount=0.5, gae=1.0, agents=2, rollout=210)
    model = balancing()
    with torch.no_grad():
        model.critic.weight.zero_()
        model.critic.bias.fill_(7.0)
    batch = next(task.batches(model, 1))
    rollout = task.rollout
    step = np.flatnonzero(rollout.truncated[:, 0])[0]
    assert step == 199
    returns = batch.returns.view(210, 2)[:, 0].tolist()
    assert returns[step - 1 : step + 1] == [1 + 0.5 * (1 + 0.5 * 7), 1 + 0.5 * 7]
    assert batch.mask.view(210, 2)[step : step + 2, 0].tolist() == [1, 0]


def test_advantages_are_shifted_and_scaled_over_the_rows_that_count() -> None:
    (plain, model), (normalised, _) = task_and_model(rollout=60), task_and_model(rollout=60, normalise=True)
    expected, got = next(plain.batches(model, 1)), next(normalised.batches(model, 1))
    rows = expected.mask > 0
    assert not rows.all()
    gains = expected.advantages[rows]
    torch.testing.assert_close(got.advantages[rows], (gains - gains.mean()) / gains.std(correction=0))
    assert torch.equal(got.returns, expected.returns)


def test_the_loss_has_a_term_of_the_actor_and_one_of_the_critic() -> None:
    task, model = task_and_model(value=0.5)
    batch = next(iter(task.scoring_batches(model, 1)))
    terms = task.loss(model, batch)
    error = (batch.returns - model(batch.observations)[1]).square()
    torch.testing.assert_close(terms["critic"], 0.5 * (error * batch.mask).sum() / batch.mask.sum())
    policy = torch.autograd.grad(terms["actor"], list(model.critic.parameters()), retain_graph=True, allow_unused=True)
    value = torch.autograd.grad(terms["critic"], list(model.actor.parameters()), allow_unused=True)
    assert {*policy, *value} == {None}


@pytest.mark.parametrize("name", TASKS)
def test_every_control_task_draws_batches_that_it_can_learn_from(name: str) -> None:
    task, model = task_and_model(name)
    for batch in task.batches(model, 1):
        assert batch.observations.shape == (4 * 16, INPUTS[name][0])
        assert batch.observations.dtype == batch.returns.dtype == batch.mask.dtype == torch.float32
        assert set(batch.actions.tolist()) <= set(range(INPUTS[name][1]))
        model.zero_grad()
        total_loss(task.training_loss(model, batch)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert_same(task.scoring_batches(model, 1), task.scoring_batches(model, 1))


@pytest.mark.parametrize("name", TASKS)
def test_an_epoch_draws_the_same_after_a_resume(name: str) -> None:
    task, model = task_and_model(name)
    learn(task, model, [1])
    snapshot, again = copy.deepcopy(model), tiny(name)
    again.load_state_dict(json.loads(json.dumps(task.state_dict())))
    first = list(task.batches(model, 2))
    assert_same(again.batches(snapshot, 2), first)
    assert task.log() == again.log()
    for other in (next(task.batches(model, 3)), next(tiny(name, seed=1).batches(model, 2))):
        assert not torch.equal(other.observations, first[0].observations)


@pytest.mark.usefixtures("without_type_checks")
def test_a_run_goes_on_bit_for_bit_and_repeats_itself(tmp_path: Path) -> None:
    options = tiny("cartpole", method="earlycrop-s", sparsity=0.6, trigger="2", last_entropy=0.0, epochs=4).options
    until(99, "cartpole", options, tmp_path / "whole")
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            until(epoch, "cartpole", options, tmp_path / "parts")
    until(99, "cartpole", options, tmp_path / "parts")
    until(99, "cartpole", options, tmp_path / "again")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts") == contents(tmp_path / "again")


def test_scoring_does_not_disturb_training_and_plays_once() -> None:
    task, model = task_and_model()
    plain = [batch.observations for batch in tiny("cartpole").batches(copy.deepcopy(model), 1)]
    watched = []
    for batch in task.batches(model, 1):
        scoring = task.scoring_batches(model, 1)
        drawn = list(scoring)
        watched.append(batch.observations)
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    assert [len(batch.mask) for batch in drawn] == [4 * 32] * 2
    assert all(one is other for one, other in zip(drawn, scoring, strict=True))
    assert not torch.equal(drawn[0].observations[: len(plain[0])], plain[0])


def test_an_epoch_ends_with_its_share_of_steps_or_games() -> None:
    task, model = task_and_model()
    for epoch in (1, 2, 3):
        counted = sum(int(batch.mask.sum()) for batch in task.batches(model, epoch))
        assert counted > 100
        assert 200 * epoch <= task.log()["steps"] < 200 * epoch + 64
    games = tiny("cartpole", games=30)
    for epoch in (1, 2, 3):
        assert sum(1 for _ in games.batches(model, epoch)) >= 1
        assert 10 * epoch <= games.log()["games"] < 10 * epoch + 4 * 2  # no game is shorter than 8 steps
    line = games.log()
    assert games.state_dict() == {"games": line["games"], "steps": line["steps"], "bonus": games.options.entropy}


def test_log_has_the_mean_return_only_where_a_game_ended() -> None:
    task, model = task_and_model(rollout=5, steps=1, epochs=1)
    assert task.log() == {"games": 0, "steps": 0}
    list(task.batches(model, 1))
    assert set(task.log()) == {"games", "steps", "entropy"}
    assert task.log()["steps"] == 20
    assert 0.3 < task.log()["entropy"] < math.log(2)  # of two actions, neither sure nor even
    task = tiny("cartpole", rollout=60, steps=1, epochs=1)
    list(task.batches(falling(), 1))
    assert 8 <= task.log()["return"] <= 12
    assert task.log()["entropy"] == pytest.approx(0, abs=1e-2)


def test_the_learning_rate_falls_to_zero_unless_told_otherwise() -> None:
    task = tiny("cartpole", learning_rate=0.5)
    assert [task.learning_rate(p) for p in (0, 0.5, 1)] == [0.5, 0.25, 0]
    assert tiny("cartpole", learning_rate=0.5, decay=False).learning_rate(0.7) == 0.5


def test_the_entropy_bonus_goes_by_the_training_s_progress_as_the_learning_rate_does() -> None:
    """So that a lottery ticket's second training begins with the first one's bonus, and ends with its last."""
    task, model = task_and_model(entropy=0.02, last_entropy=0.0, epochs=4)
    for epoch, progress in ((1, 0.0), (3, 0.5), (5, 0.0), (8, 0.75)):
        task.learning_rate(progress)
        next(iter(task.batches(model, epoch)))
        assert task.bonus == pytest.approx(0.02 * (1 - progress))
        task.scoring_batches(model, epoch)
        assert task.bonus == pytest.approx(0.02 * (1 - progress))
    resumed = tiny("cartpole", entropy=0.02, last_entropy=0.0, epochs=4)
    resumed.load_state_dict(task.state_dict())
    assert resumed.bonus == task.bonus


@pytest.mark.parametrize("name", TASKS)
def test_the_diagnostics_are_of_other_games_and_of_rows_that_were_played(name: str) -> None:
    task, model = tiny(name, scoring_length=120), always(name, 0)
    assert task.diagnostics_games == (12 if name == "lunarlander" else 32)
    task.diagnostics_games = 4
    batches = list(task.scoring_batches(model, 1))
    before = torch.get_rng_state()
    diagnostics = task.pruning_diagnostics(model, batches)
    rows = int(sum(batch.mask.sum() for batch in batches))
    assert rows < sum(len(batch.mask) for batch in batches) or name == "acrobot"
    probabilities = torch.tensor([1.0] + [0.0] * (INPUTS[name][1] - 1)).softmax(0)
    torch.testing.assert_close(diagnostics["policy"].exp(), probabilities.expand(rows, -1))
    assert diagnostics["return"] == mean_return(model, task.dataset, 4, DIAGNOSTICS_SEED)
    assert torch.equal(torch.get_rng_state(), before)
    assert not diagnostics["policy"].requires_grad


def test_evaluation_repeats_itself_whatever_the_seed() -> None:
    model = falling()
    assert tiny("cartpole").evaluate(model) == tiny("cartpole", seed=5).evaluate(model)
    assert tiny("cartpole").evaluate(balancing()) == 500


class Towers(nn.Module):
    """Two towers in place of a trunk, called by names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.chooses = nn.Sequential(nn.Linear(4, 12), nn.GELU(), nn.Linear(12, 2))
        self.judges = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.chooses(observations), self.judges(observations).squeeze(-1)


class TowersTask(A2C):
    def model(self) -> nn.Module:
        return Towers()


def test_any_module_of_logits_and_values_is_trained_scored_and_cut(tmp_path: Path) -> None:
    task = TowersTask(tiny("cartpole").options)
    torch.manual_seed(0)
    model = task.model()
    before = copy.deepcopy(model.state_dict())
    learn(task, model, [1, 2])
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    event = earlycrop.prune(model, task.loss, task.scoring_batches(model, 2), sparsity=0.5)
    assert event.achieved >= 0.49
    assert model.chooses[0].out_features < 12
    learn(task, model, [3])
    assert 8 <= task.evaluate(model) <= 500
    assert 8 <= task.pruning_diagnostics(model, task.scoring_batches(model, 3))["return"] <= 500
    assert task.record(model, tmp_path)[0].exists()


def test_another_environment() -> None:
    task = A2C(A2COptions(environment="MountainCar-v0", widths=(4,), steps=1, epochs=1, agents=2, rollout=8))
    (batch,) = task.batches(task.model(), 1)
    assert batch.observations.shape == (16, 2)
    assert batch.observations.dtype == batch.returns.dtype == torch.float32
    assert set(batch.actions.tolist()) <= {0, 1, 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_plays_and_learns() -> None:
    task, model = task_and_model()
    model.cuda()
    learn(task, model, [1, 2])
    (batch, *_) = task.scoring_batches(model, 2)
    assert {x.device.type for x in batch[:5]} == {"cuda"}
    assert 8 <= task.evaluate(model) <= 500
    reference, _ = task_and_model()
    on_cpu = copy.deepcopy(model).cpu()
    for one, other in zip(task.batches(model, 3), reference.batches(on_cpu, 3), strict=False):
        torch.testing.assert_close([x.cpu() for x in one[:5]], list(other[:5]), rtol=1e-3, atol=1e-4)
        break


@pytest.mark.parametrize("name", ["acrobot", "cartpole"])
def test_a_task_with_workers(name: str) -> None:
    task, model = task_and_model(name, workers=2, steps=200, epochs=1)
    first = list(task.batches(copy.deepcopy(model), 1))
    assert_same(tiny(name, workers=4, steps=200, epochs=1).batches(copy.deepcopy(model), 1), first)
    if name == "acrobot":
        assert_same(tiny(name, steps=200, epochs=1).batches(copy.deepcopy(model), 1), first)
    player = task._player(1, 0)
    assert isinstance(player, Player)
    player.close()


def test_a_run_with_workers_prunes(tmp_path: Path) -> None:
    small = ["--workers", "2", "--agents", "2", "--widths", "16", "16", "--steps", "300", "--epochs", "3"]
    pruned = ["--method", "snap", "--sparsity", "0.6", "--scoring-rollouts", "1", "--scoring-length", "32"]
    result = command_line.main("cartpole", [*small, *pruned, "--runs", str(tmp_path)])
    assert result.weight_sparsity > 0.59
    assert json.loads((folder(tmp_path) / "config.json").read_text())["workers"] == 2


def test_one_worker_is_no_part_of_a_configuration() -> None:
    def described(**options: Any) -> dict[str, Any]:
        return configuration("cartpole", tiny("cartpole", **options).options)

    assert "workers" not in described() | described(workers=1)
    assert described(workers=2) == {**described(), "workers": 2}
