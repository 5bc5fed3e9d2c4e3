"""The A2C adapter and cart-pole on it."""

import copy
import math
import platform
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tasks import cartpole
from tasks._a2c import A2C, Batch
from tasks._a2c_options import A2COptions
from tasks._environments import make_environment
from tasks._policy import Policy
from tasks._rollouts import EVALUATION_SEED, Player, advantages
from tasks.nets.actor_critic import ActorCritic

SMALL = cartpole.Options(widths=(8, 8), steps=600, epochs=3, agents=4, rollout=16, scoring_rollouts=2)


def fresh(options):
    torch.manual_seed(options.seed)
    task = cartpole.make(options)
    return task, task.model()


def learn(task, model, epochs):
    """What the training loop does."""
    optimizer = task.optimizer(model)
    for epoch in epochs:
        for group in optimizer.param_groups:
            group["lr"] = task.learning_rate((epoch - 1) / task.options.epochs)
        for batch in task.batches(model, epoch):
            optimizer.zero_grad(set_to_none=True)
            task.training_loss(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), task.clip)
            optimizer.step()


def policy_by_hand(weights):
    """Pushes right where weights @ observation > 0, through one layer of ReLU(+s), ReLU(-s)."""
    model = ActorCritic(4, (2,), 2, "relu")
    signal = torch.tensor(weights)
    with torch.no_grad():
        model.trunk[0].weight.copy_(torch.stack([signal, -signal]))
        model.actor.weight.copy_(1e4 * torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    return model


BALANCING = policy_by_hand([0.1, 0.3, 3.0, 1.0])
FALLING = policy_by_hand([0.0, 0.0, 0.0, -1.0])


@pytest.mark.parametrize(
    ("gae", "expected"),
    [
        # lambda 1: n-step returns minus values; 1 + .5 * 8 = 5, 1 + .5 * 5 = 3.5, 1 + .5 * 3.5 = 2.75 where it goes on
        (1.0, [[0.75, -0.5, 1.0], [-0.5, -3.0, 0.0], [-1.0, -1.0, -1.0]]),
        # lambda .5: errors 1, 0, -1 (going on), 1, -3 (terminated), 1, 0 (truncated), each .25 of the next added
        (0.5, [[0.9375, 0.25, 1.0], [-0.25, -3.0, 0.0], [-1.0, -1.0, -1.0]]),
    ],
)
def test_advantages_of_a_game_that_goes_on_one_that_terminates_and_one_that_is_truncated(gae, expected):
    terminated, truncated = np.zeros((3, 3), bool), np.zeros((3, 3), bool)
    terminated[1, 1] = truncated[1, 2] = True
    values = np.array([2.0, 4.0, 6.0, 8.0])[:, None].repeat(3, 1)
    got = advantages(np.ones((3, 3)), values, terminated, truncated, discount=0.5, gae=gae)
    np.testing.assert_allclose(got, np.array(expected), rtol=0, atol=1e-12)


def test_a_rollout_leaves_out_the_steps_in_which_environments_reset():
    player = Player("CartPole-v1", 4, (0, 1, 0))
    rollout = player.play(Policy(FALLING), 60)
    player.close()
    dead = ~rollout.mask
    assert not dead[0].any()
    np.testing.assert_array_equal(dead[1:], (rollout.terminated | rollout.truncated)[:-1])
    before, after = rollout.observations[:-1][dead], rollout.observations[1:][dead]
    assert (np.abs(after) <= 0.05).all()  # where games start
    assert (np.abs(before[:, 2]) > math.radians(12)).all()  # where they ended
    assert len(rollout.returns) == rollout.terminated.sum()
    lengths = [np.diff(np.flatnonzero(np.append(True, column))) for column in rollout.terminated.T]
    starts = sum(np.flatnonzero(column)[0] + 1 for column in rollout.terminated.T)
    assert sum(rollout.returns) == starts + sum((length[1:] - 1).sum() for length in lengths)


def test_returns_of_truncated_games_are_bootstrapped_with_the_value_of_their_last_observation():
    task = cartpole.make(replace(SMALL, environment="CartPole-v0", reward_scale=1.0, discount=0.5, gae=1.0))
    model = copy.deepcopy(BALANCING)
    with torch.no_grad():
        model.critic.weight.zero_()
        model.critic.bias.fill_(7.0)
    rollout = next(play_until_truncated())
    batch = task._batch(rollout._replace(values=np.full_like(rollout.values, 7.0)), model, train=False)
    row = np.flatnonzero(rollout.truncated[:, 0])[0]
    returns = batch.returns.view(rollout.actions.shape)[:, 0].tolist()
    assert returns[row - 1 : row + 1] == [1 + 0.5 * (1 + 0.5 * 7), 1 + 0.5 * 7]
    assert batch.mask.view(rollout.actions.shape)[row : row + 2, 0].tolist() == [1, 0]


def play_until_truncated():
    player = Player("CartPole-v0", 2, (0, 1, 0))
    yield player.play(Policy(BALANCING), 210)
    player.close()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_numpy_plays_what_torch_computes_on_the_same_memory(activation):
    torch.manual_seed(0)
    model = ActorCritic(4, (16, 8), 3, activation)
    policy, observations = Policy(model), torch.randn(5, 7, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        logits, values = model(observations)
    features = policy.features(observations.numpy())
    torch.testing.assert_close(torch.from_numpy(policy.logits(features)), logits)
    torch.testing.assert_close(torch.from_numpy(policy.values(features)), values)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="true of OpenBLAS's kernels for x86")
@pytest.mark.parametrize("widths", [(128, 128, 128), (256, 64, 48), (90, 33, 128)])
@pytest.mark.parametrize("rows", [4, 8, 16, 20, 100])
def test_weights_in_another_order_give_the_same_to_the_last_bit(widths, rows):
    torch.manual_seed(0)
    policy = Policy(ActorCritic(4, widths, 2, "tanh"))
    arranged, observations = policy.arranged(rows), torch.randn(rows, 4).numpy()
    np.testing.assert_array_equal(arranged.features(observations), policy.features(observations))
    orders = [layer[0].flags.c_contiguous for layer in arranged.layers if isinstance(layer, tuple)]
    assert any(orders) == (rows * max(widths) > 1200)


def test_actions_follow_the_softmax_of_the_logits():
    model = ActorCritic(4, (2,), 2, "tanh")
    with torch.no_grad():
        model.actor.weight.zero_()
        model.actor.bias.copy_(torch.tensor([0.0, math.log(3)]))
    player = Player("CartPole-v1", 64, (0, 1, 0))
    share = player.play(Policy(model), 100).actions.mean()
    player.close()
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 6400)


def test_loss_by_hand():
    task = cartpole.make(replace(SMALL, entropy=0.1, value=0.5))
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
    expected = policy + 0.5 * (1 + 4) / 2 - 0.1 * entropy
    torch.testing.assert_close(task.loss(model, batch), torch.tensor(expected))
    policy_alone = batch._replace(value=0.0)
    torch.testing.assert_close(task.loss(model, policy_alone), torch.tensor(policy - 0.1 * entropy))


def test_the_critic_s_weight_in_the_scores_is_not_that_of_training():
    task, model = fresh(replace(SMALL, value=0.5, scoring_value=0.125))
    plain, _ = fresh(replace(SMALL, value=0.5))
    (scored, *_), (as_trained, *_) = task.scoring_batches(model, 1), plain.scoring_batches(model, 1)
    error = (scored.returns - model(scored.observations)[1]).square()
    mean = (error * scored.mask).sum() / scored.mask.sum()
    torch.testing.assert_close(plain.loss(model, as_trained) - task.loss(model, scored), 0.375 * mean)
    trained = next(iter(task.batches(model, 1)))
    torch.testing.assert_close(task.loss(model, trained), task.training_loss(model, trained).detach())
    same, _ = fresh(replace(SMALL, value=0.5, scoring_value=0.5))
    assert same.loss(model, next(iter(same.scoring_batches(model, 1)))) == plain.loss(model, as_trained)


def test_loss_has_second_derivatives_and_runs_on_fake_tensors_with_one_call():
    task, model = fresh(SMALL)
    (batch, *_) = task.scoring_batches(model, 1)
    model.double()
    batch = Batch(*(t.double() if t.is_floating_point() else t for t in batch[:5]))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def loss(*parameters, batch=batch):
        names = [name for name, _ in model.named_parameters()]
        named = dict(zip(names, parameters, strict=True))
        return task.loss(lambda observations: torch.func.functional_call(model, named, observations), batch)

    loss(*model.parameters())
    assert len(calls) == 1
    direction = [torch.randn_like(p) for p in model.parameters()]
    parameters = [p.detach().requires_grad_() for p in model.parameters()]

    def slope(shift):
        moved = [(p + shift * d).detach().requires_grad_() for p, d in zip(parameters, direction, strict=True)]
        grads = torch.autograd.grad(loss(*moved), moved)
        return sum((g * d).sum() for g, d in zip(grads, direction, strict=True)).item()

    grads = torch.autograd.grad(loss(*parameters), parameters, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    second = torch.autograd.grad(along, parameters)
    curvature = sum((s * d).sum() for s, d in zip(second, direction, strict=True)).item()
    assert curvature == pytest.approx((slope(1e-4) - slope(-1e-4)) / 2e-4, rel=1e-4)
    with FakeTensorMode() as mode:
        fake = Batch(*(mode.from_tensor(t) for t in batch[:5]))
        assert loss(*(mode.from_tensor(p) for p in parameters), batch=fake).shape == ()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_gradient_without_a_second_forward_pass_is_autograds(activation):
    task, model = fresh(replace(SMALL, activation=activation, steps=2000, epochs=1))
    for batch in task.batches(model, 1):
        found = []
        for loss in (task.loss, task.training_loss):
            model.zero_grad()
            value = loss(model, batch)
            (3 * value).backward()
            found.append([value.detach(), *(p.grad.clone() for p in model.parameters())])
        for slow, fast in zip(*found, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    assert not bool(batch.mask.all()), "a reset step was among the rows"


def test_an_epoch_draws_the_same_after_a_resume():
    task, model = fresh(SMALL)
    learn(task, model, [1])
    snapshot, state = copy.deepcopy(model), copy.deepcopy(task.state_dict())
    again = cartpole.make(SMALL)
    again.load_state_dict(state)
    first, second = list(task.batches(model, 2)), list(again.batches(snapshot, 2))
    assert len(first) == len(second) > 1
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert task.log() == again.log()
    later = next(task.batches(model, 3))
    assert not torch.equal(later.observations, first[0].observations)
    other_seed = next(cartpole.make(replace(SMALL, seed=1)).batches(model, 2))
    assert not torch.equal(other_seed.observations, first[0].observations)


def test_scoring_does_not_disturb_training_and_draws_once():
    task, model = fresh(SMALL)
    plain = [batch.observations for batch in cartpole.make(SMALL).batches(model, 1)]
    watched = []
    for batch in task.batches(model, 1):
        scoring = task.scoring_batches(model, 1)
        drawn = list(scoring)
        watched.append(batch.observations)
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    assert [len(batch.mask) for batch in drawn] == [4 * 128] * 2
    assert all(one is other for one, other in zip(drawn, scoring, strict=True))
    assert not torch.equal(drawn[0].observations[: len(plain[0])], plain[0])


def test_an_epoch_ends_with_its_share_of_steps_or_games():
    task, model = fresh(SMALL)
    for epoch in (1, 2, 3):
        counted = sum(int(batch.mask.sum()) for batch in task.batches(model, epoch))
        assert counted > 100
        assert 200 * epoch <= task.log()["steps"] < 200 * epoch + 64
    games = cartpole.make(replace(SMALL, games=30))
    for epoch in (1, 2, 3):
        ended = sum(1 for _ in games.batches(model, epoch))
        assert ended >= 1
        assert 10 * epoch <= games.log()["games"] < 10 * epoch + 4 * 2  # no game is shorter than 8 steps
    told = games.log()
    assert games.state_dict() == {"games": told["games"], "steps": told["steps"], "bonus": SMALL.entropy}


def test_log_tells_the_mean_return_only_where_a_game_ended():
    task = cartpole.make(replace(SMALL, rollout=5, steps=1, epochs=1))
    model = task.model()
    assert task.log() == {"games": 0, "steps": 0}
    list(task.batches(model, 1))
    assert set(task.log()) == {"games", "steps", "entropy"}
    assert task.log()["steps"] == 20
    assert 0.3 < task.log()["entropy"] < math.log(2)  # of two actions, neither sure nor even
    task = cartpole.make(replace(SMALL, rollout=60, steps=1, epochs=1))
    list(task.batches(FALLING, 1))
    assert 8 <= task.log()["return"] <= 12
    assert task.log()["entropy"] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(("environment", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_games_stop_at_the_limit(environment, limit):
    task = cartpole.make(replace(SMALL, environment=environment))
    assert task.evaluate(BALANCING) == limit
    assert task.dataset == environment


def test_evaluation_is_the_mean_over_single_games_and_repeats_itself():
    task = cartpole.make(SMALL)
    vectorised = make_environment("CartPole-v1", 100)
    starts, _ = vectorised.reset(seed=EVALUATION_SEED)
    vectorised.close()
    single, lengths = gymnasium.make("CartPole-v1").unwrapped, []
    for start in starts:
        single.reset()
        single.state, observation, done, length = np.array(start, float), start, False, 0
        while not done:
            observation, _, done, _, _ = single.step(int(-observation[3] > 0))
            length += 1
        lengths.append(length)
    single.close()
    assert task.evaluate(FALLING) == np.mean(lengths)
    assert task.evaluate(FALLING) == cartpole.make(replace(SMALL, seed=5)).evaluate(FALLING)


def test_other_environments_play_one_after_the_other():
    task = A2C(A2COptions(environment="MountainCar-v0", widths=(4,), steps=1, epochs=1, agents=2, rollout=8))
    (batch,) = task.batches(task.model(), 1)
    assert batch.observations.shape == (16, 2)
    assert batch.observations.dtype == batch.returns.dtype == torch.float32
    assert set(batch.actions.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "CartPole-v7"}, "environment must be CartPole-v1 or CartPole-v0, not 'CartPole-v7'."),
        ({"epochs": 0}, "epochs must be at least 1, not 0."),
        ({"agents": 0}, "agents must be at least 1, not 0."),
        ({"rollout": -1}, "rollout must be at least 1, not -1."),
        ({"games": -1}, "games must be a number of 0 or more, not -1."),
        ({"entropy": math.nan}, "entropy must be a number of 0 or more, not nan."),
        ({"discount": 1.1}, "discount must be between 0 and 1, not 1.1."),
        ({"gae": -0.1}, "gae must be between 0 and 1, not -0.1."),
        ({"learning_rate": math.nan}, "learning_rate must be a number above 0, not nan."),
        ({"clip": 0.0}, "clip must be None or a number above 0, not 0.0."),
        ({"scoring_value": -1.0}, "scoring_value must be None or a number of 0 or more, not -1.0."),
        ({"widths": ()}, "widths must be one or more numbers of at least 1, not ()."),
        ({"widths": (8, 0)}, "widths must be one or more numbers of at least 1, not (8, 0)."),
        ({"activation": "gelu"}, "activation must be tanh or relu, not 'gelu'."),
    ],
)
def test_bad_options_are_refused_in_one_sentence(change, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        cartpole.make(replace(SMALL, **change))
    assert str(error.value) == message


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="environment must have discrete actions, which Pendulum-v1 has not"):
        A2C(A2COptions(environment="Pendulum-v1"))


def test_the_learning_rate_falls_to_zero_unless_told_otherwise():
    task = cartpole.make(replace(SMALL, learning_rate=0.5))
    assert [task.learning_rate(p) for p in (0, 0.5, 1)] == [0.5, 0.25, 0]
    assert cartpole.make(replace(SMALL, learning_rate=0.5, decay=False)).learning_rate(0.7) == 0.5


def test_presets_say_their_name():
    assert all(make().preset == name for name, make in cartpole.PRESETS.items())
    task = cartpole.make(cartpole.PRESETS["paper-table4"]())
    assert (task.dataset, task.network, task.options.games) == ("CartPole-v0", "mlp-128-128-128", 8000)


@pytest.mark.slow
def test_the_default_solves_cart_pole():
    task, model = fresh(cartpole.Options())
    learn(task, model, range(1, 31))
    assert task.evaluate(model) >= 475


def test_the_entropy_bonus_goes_by_the_training_s_progress_as_the_learning_rate_does() -> None:
    """So that a lottery ticket's second training begins with the first one's bonus, and ends with its last."""
    task = cartpole.make(replace(SMALL, entropy=0.02, last_entropy=0.0, epochs=4))
    model = task.model()
    for epoch, progress in ((1, 0.0), (3, 0.5), (5, 0.0), (8, 0.75)):
        task.learning_rate(progress)
        next(iter(task.batches(model, epoch)))
        assert task.bonus == pytest.approx(0.02 * (1 - progress))
        task.scoring_batches(model, epoch)
        assert task.bonus == pytest.approx(0.02 * (1 - progress))
    resumed = cartpole.make(task.options)
    resumed.load_state_dict(task.state_dict())
    assert resumed.bonus == task.bonus
