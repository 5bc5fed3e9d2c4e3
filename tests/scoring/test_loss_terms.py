"""Losses of several terms: what they may return, and scores by the relative change of each term's gradient flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import FlowError, flow, prune
from earlycrop.scoring.criteria import CRITERIA
from earlycrop.scoring.derivatives import flow_by_parameter, flows
from earlycrop.scoring.loss_terms import loss_terms, total_loss
from earlycrop.scoring.scores import node_scores, weight_scores
from earlycrop.tracing.trace import trace

BY_TERM = [name for name, criterion in CRITERIA.items() if criterion.by_term]


class Quadratic(nn.Module):
    """One matrix of four weights."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([list(weights)], dtype=torch.float64))


class TwoHeads(nn.Module):
    """A trunk and two heads, as an actor and a critic have."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        self.actor, self.critic = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.actor(hidden), self.critic(hidden)


def two_heads() -> tuple[TwoHeads, list[Tensor]]:
    torch.manual_seed(0)
    return TwoHeads().double(), [torch.randn(7, 5, dtype=torch.float64) for _ in range(2)]


def terms(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    logits, value = model(x)
    return {
        "policy": -logits.log_softmax(-1)[:, 0].mean(),
        "critic": 100 * (value - x.sum(1, keepdim=True)).square().mean(),
    }


def effects_by_autograd(model: nn.Module, batches: list[Tensor], term: str) -> tuple[dict[str, Tensor], ...]:
    """w, g and Hg of one term, summed over the batches, with zeros where it does not depend on a parameter."""
    parameters = dict(model.named_parameters())
    leaves = list(parameters.values())
    value = sum(terms(model, x)[term] for x in batches)
    zeros = [torch.zeros_like(p) for p in leaves]
    g = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
    square = sum((x * x.detach()).sum() for x in g if x is not None)
    hg = torch.autograd.grad(square, leaves, allow_unused=True)
    return (
        {n: p.detach() for n, p in parameters.items()},
        {n: (z if x is None else x.detach()) for n, x, z in zip(parameters, g, zeros, strict=True)},
        {n: (z if x is None else x) for n, x, z in zip(parameters, hg, zeros, strict=True)},
    )


def test_scores_of_two_quadratic_terms_worked_out_by_hand() -> None:
    """L_1 = (a^2 + b^2) / 2 and L_2 = 50 (b^2 + c^2): g_1 = (a, b, 0), H_1 g_1 = (a, b, 0), g_2 = 100 (0, b, c), ...

    With a, b, c = 1, 2, 3: |g_1|^2 = 5 and |g_2|^2 = 130,000; w H_1 g_1 = (1, 4, 0) and w H_2 g_2 = 10,000 (0, 4, 9).
    The sum's own flow has w H g = (1, 101^2 * 4, 100^2 * 9).
    """
    model = Quadratic(1.0, 2.0, 3.0)

    def loss(m: nn.Module, _: Any) -> tuple[Tensor, Tensor]:
        a, b, c = m.weight[0]  # type: ignore[union-attr, misc]
        return (a * a + b * b) / 2, 50 * (b * b + c * c)

    by_term = weight_scores(model, CRITERIA["crop"], loss, [0])["weight"]
    torch.testing.assert_close(by_term, torch.tensor([[1 / 5, 4 / 5 + 4 / 13, 9 / 13]], dtype=torch.float64))
    of_the_sum = weight_scores(model, replace(CRITERIA["crop"], by_term=False), loss, [0])["weight"]
    torch.testing.assert_close(of_the_sum, torch.tensor([[1.0, 101.0**2 * 4, 100.0**2 * 9]], dtype=torch.float64))


@pytest.mark.parametrize("batches", [1, 2])
def test_weights_are_scored_by_the_relative_change_of_each_terms_flow(batches: int) -> None:
    model, data = two_heads()
    data = data[:batches]
    scores = weight_scores(model, CRITERIA["crop"], terms, data)
    for name, score in scores.items():
        expected = torch.zeros_like(score)
        for term in ("policy", "critic"):
            w, g, hg = effects_by_autograd(model, data, term)
            expected += (w[name] * hg[name]).abs() / sum((x * x).sum() for x in g.values())
        torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("criterion", ["crop", "crop-flow"])
def test_nodes_are_scored_by_the_relative_change_of_each_terms_flow(criterion: str, batches: int) -> None:
    """A node of the trunk is gated at the columns of both heads: sum over them of w Hg, with g g for a gate."""
    model, data = two_heads()
    data = data[:batches]
    graph = trace(model, data[0])
    scores = node_scores(model, graph, CRITERIA[criterion], terms, data)
    expected = torch.zeros(6, dtype=torch.float64)
    for term in ("policy", "critic"):
        w, g, hg = effects_by_autograd(model, data, term)
        gg = 1 if criterion == "crop" else 0
        heads = ["actor.weight", "critic.weight"]
        effect = sum((w[n] * hg[n] + gg * g[n] * g[n]).sum(0) for n in heads)
        expected += effect.abs() / sum((x * x).sum() for x in g.values())  # type: ignore[union-attr]
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("criterion", BY_TERM)
@pytest.mark.parametrize("batches", [1, 2])
def test_a_constant_factor_on_a_term_changes_no_score(criterion: str, batches: int) -> None:
    model, data = two_heads()
    graph = trace(model, data[0])

    def scaled(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {name: term * (1000 if name == "policy" else 1) for name, term in terms(m, x).items()}

    for score in (
        lambda loss: node_scores(model, graph, CRITERIA[criterion], loss, data[:batches]),
        lambda loss: torch.cat([s.flatten() for s in weight_scores(model, CRITERIA[criterion], loss, data).values()]),
    ):
        torch.testing.assert_close(score(scaled), score(terms))


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_one_term_scores_as_the_loss_itself_to_the_bit(criterion: str) -> None:
    model, data = two_heads()
    forms: list[Callable[[nn.Module, Tensor], Any]] = [
        lambda m, x: total_loss(terms(m, x)),
        lambda m, x: (total_loss(terms(m, x)),),
        lambda m, x: {"any": total_loss(terms(m, x))},
        lambda m, x: {"loss": total_loss(terms(m, x)), "logits": m(x)},
    ]
    seen = []
    for loss in forms:
        torch.manual_seed(1)
        seen.append(torch.cat([s.flatten() for s in weight_scores(model, CRITERIA[criterion], loss, data).values()]))
    assert all(torch.equal(seen[0], scores) for scores in seen[1:])


def test_flow_is_that_of_the_sum_and_flows_are_those_of_each_term() -> None:
    model, data = two_heads()
    total = flow(model, terms, data)
    plain = flow(model, lambda m, x: total_loss(terms(m, x)), data)
    for name, g in total.gradient.items():
        assert torch.equal(g, plain.gradient[name])
    by_term = flows(model, terms, data, by_term=True)
    assert list(by_term) == ["policy", "critic"]
    for term, derivatives in by_term.items():
        _, g, hg = effects_by_autograd(model, data, term)
        assert derivatives.product is not None
        for name in g:
            torch.testing.assert_close(derivatives.gradient[name], g[name])
            torch.testing.assert_close(derivatives.product[name], hg[name])
    assert all(p.grad is None for p in model.parameters())
    streamed = flow_by_parameter(model, terms, data[:1], lambda *_: None, by_term=True)
    assert streamed == {n: d.gradient_flow for n, d in flows(model, terms, data[:1], True).items()}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            lambda m, x: (m(x)[0].mean(), m(x)[1]),
            r"the loss's term '1' is a tensor of shape \(7, 1\): return one scalar",
        ),
        (lambda m, x: (m(x)[0].mean(), m(x)), "the loss's term '1' is a tuple: return one scalar"),
        (lambda m, x: {"policy": m(x)[0].mean(), "critic": 0.5}, "the loss's term 'critic' is a float: return one"),
        (lambda m, x: {"policy": m(x)[0].mean(), "critic": torch.ones(())}, "the loss's term 'critic' has no gradient"),
        (lambda m, x: {"a": m(x)[0].mean(), "b": m(x)[1].mean() / 0}, "the loss's term 'b' is (inf|-inf|nan)"),
        (lambda m, x: (), r"is an empty tuple: return one scalar tensor, or the loss's terms.*\(policy, critic\)"),
        (
            lambda m, x: {"loss": m(x)[0], "critic": m(x)[1].mean()},
            r"must be a scalar tensor, and is a tensor of shape",
        ),
        (
            lambda m, x: None,
            "must be a scalar tensor, and is a NoneType: return one scalar tensor, or the loss's terms",
        ),
    ],
)
def test_what_is_neither_a_scalar_nor_terms_is_named(value: Callable[[nn.Module, Tensor], Any], sentence: str) -> None:
    model, data = two_heads()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FlowError, match=sentence):
        flow(model, value, data)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_batches_with_other_terms_are_refused() -> None:
    model, data = two_heads()

    def changing(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        both = terms(m, x)
        return both if x is data[0] else {"policy": both["policy"], "value": both["critic"]}

    sentence = "the loss has the terms critic, policy on one batch and policy, value on another: return the same terms"
    with pytest.raises(FlowError, match=sentence):
        flows(model, changing, data, by_term=True)


def test_a_parameter_of_one_term_alone_has_a_score_and_one_of_none_has_zeros() -> None:
    model, data = two_heads()
    expected = weight_scores(model, CRITERIA["crop"], terms, data)
    model.register_parameter("alone", nn.Parameter(torch.ones(2, 2, dtype=torch.float64)))
    scores = weight_scores(model, CRITERIA["crop"], terms, data)
    assert not scores.pop("alone").any()
    torch.testing.assert_close(scores, expected)


def test_a_term_whose_gradient_is_zero_is_named_and_does_not_count() -> None:
    model, data = two_heads()

    def idle(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {**terms(m, x), "penalty": m.actor.weight.sub(1e6).relu().sum()}  # type: ignore[union-attr, operator]

    with pytest.warns(UserWarning, match="the gradient of the loss's term 'penalty' is zero on the scoring batches"):
        scores = weight_scores(model, CRITERIA["crop"], idle, data)
    for name, score in weight_scores(model, CRITERIA["crop"], terms, data).items():
        assert torch.equal(score, scores[name])


def test_total_loss_is_the_sum_of_the_terms() -> None:
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor([3.0], requires_grad=True)
    assert total_loss((a, b)) == total_loss([a, b]) == total_loss({"x": a, "y": b}) == 5
    assert total_loss({"loss": a, "y": b}) == total_loss(a) == 2
    assert list(loss_terms((a, b))) == ["0", "1"]


@pytest.mark.parametrize("structured", [True, False])
def test_a_training_loop_with_terms_is_pruned(structured: bool) -> None:
    model, data = two_heads()
    event = prune(model, terms, data, "crop", 0.5, structured=structured, rounds=2)
    assert event.left <= 0.5 * event.dense + 1
    total_loss(terms(model, data[0])).backward()
