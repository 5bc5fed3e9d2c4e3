"""The control tasks' network, and the normalisation of its observations."""

from __future__ import annotations

import torch

from tasks.cartpole import Options, make
from tasks.nets.actor_critic import ActorCritic, RunningNorm


def test_statistics_are_those_of_all_observations_so_far() -> None:
    torch.manual_seed(0)
    norm, parts = RunningNorm(4), [torch.randn(n, 3, 4) * torch.tensor([0.01, 1.0, 5.0, 0.0]) + 2 for n in (1, 7, 20)]
    assert torch.equal(norm(parts[0]), parts[0])
    for part in parts:
        norm.update(part)
    everything = torch.cat(parts).flatten(0, 1)
    torch.testing.assert_close(norm.mean, everything.mean(0))
    torch.testing.assert_close(norm.variance, everything.var(0, correction=0), rtol=1e-4, atol=1e-6)
    normal = norm(everything)
    torch.testing.assert_close(normal[:, :3].std(0, correction=0), torch.ones(3), rtol=1e-3, atol=0)
    assert float(norm(torch.full((4,), 1e9)).max()) == 10


def test_a_model_starts_with_the_statistics_of_its_first_policy_and_goes_on_with_them() -> None:
    task = make(Options(steps=64, agents=4, epochs=1))
    model, again = task.model(), task.model()
    assert isinstance(model, ActorCritic)
    before = model.norm.state_dict()
    assert 0 < float(before["variance"].min()) < 0.1
    count = float(before["count"])
    assert count == 4 * (128 + 1)
    rollouts = len(list(task.batches(model, 1)))
    assert rollouts > 0
    assert float(model.norm.count) == count + rollouts * 4 * (16 + 1)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in again.named_parameters()]


def test_the_papers_presets_take_observations_as_they_are() -> None:
    plain = make(Options(normalise_observations=False)).model()
    assert "norm.mean" not in plain.state_dict()
