"""The pointer sentinel mixture model: the mixture word by word by hand, and what can be cut from it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from tasks import ptb
from tasks.nets.psmm import PSMM, Mixture


def network(**changed: Any) -> PSMM:
    torch.manual_seed(0)
    given = {"vocabulary": 11, "embedding": 6, "widths": (9, 7), "window": 4, "dropout": 0.3, **changed}
    model = PSMM(**given).double().eval()
    with torch.no_grad():
        for p in model.parameters():  # far enough from zero to tell one term from another
            p.uniform_(-1, 1)
    return model


def log_probabilities(mixture: Mixture) -> Tensor:
    """Of every word, (batch, time, vocabulary): each share goes to the word that it points at."""
    drawn = mixture.logits.log_softmax(-1)
    if mixture.shares is None:
        return drawn
    copied, gate = mixture.shares[..., :-1].exp(), mixture.shares[..., -1:]
    return (drawn + gate).exp().scatter_add(-1, mixture.words.unsqueeze(1).expand_as(copied), copied).log()


def sequences(time: int = 9) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(0, 5, (3, time + 1))
    return tokens[:, :-1], tokens[:, 1:]


# --- the network


def by_hand(model: PSMM, tokens: list[int]) -> list[Tensor]:
    """p(y | x_1 ... x_t) for every t of one sequence, a word at a time, as section 2 of the paper has it."""
    hidden = [(torch.zeros(1, layer.hidden_size).double(), torch.zeros(1, layer.hidden_size).double())
              for layer in model.layers]  # fmt: skip
    states, probabilities = [], []
    for t, token in enumerate(tokens):
        x = model.embedding.weight[token][None]
        for i, layer in enumerate(model.layers):
            cell = nn.LSTMCell(layer.input_size, layer.hidden_size).double()
            cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
            hidden[i] = cell(x, hidden[i])
            x = hidden[i][0]
        states.append(x[0])
        p = torch.softmax(model.words.weight @ x[0] + model.words.bias, 0)
        q = torch.tanh(model.query.weight @ x[0] + model.query.bias)
        seen = range(max(0, t - model.window + 1), t + 1)
        a = torch.softmax(torch.stack([*(q @ states[i] for i in seen), q @ model.sentinel]), 0)
        p = a[-1] * p
        for share, i in zip(a, seen, strict=False):
            p[tokens[i]] += share
        probabilities.append(p)
    return probabilities


def test_the_mixture_is_that_of_the_paper_word_by_word() -> None:
    model, (tokens, targets) = network(), sequences()
    with torch.no_grad():
        mixture = model(tokens)
        expected = torch.stack([torch.stack(by_hand(model, row)) for row in tokens.tolist()])
        torch.testing.assert_close(log_probabilities(mixture), expected.log())
        chosen = expected.gather(-1, targets.unsqueeze(-1)).squeeze(-1).log()
        torch.testing.assert_close(mixture.log_likelihood(targets), chosen)


def test_pointer_and_gate_sum_to_one_and_so_do_the_words() -> None:
    model, (tokens, _) = network(), sequences()
    mixture = model(tokens)
    one = torch.ones(tokens.shape).double()
    torch.testing.assert_close(mixture.shares.exp().sum(-1), one)
    torch.testing.assert_close(log_probabilities(mixture).exp().sum(-1), one)
    # at each place at most the window's four words and the sentinel have a share
    assert [int(n) for n in (mixture.shares[0] > -1e3).sum(-1)] == [2, 3, 4, 5, 5, 5, 5, 5, 5]


def test_a_likelihood_is_finite_and_can_be_differentiated_twice_where_a_word_is_nowhere_to_be_pointed_at() -> None:
    model, (tokens, targets) = network(), sequences()
    model.words.bias.data[10] = -1e5  # p_vocab of word 10 underflows to 0, and nothing points at it
    lost = torch.full_like(targets, 10)
    derived = earlycrop.flow(model, lambda m, b: -m(b).log_likelihood(lost).mean(), [tokens])
    assert derived.product is not None
    assert -model(tokens).log_likelihood(lost).mean().item() == pytest.approx(1e5, rel=0.01)


def test_two_halves_with_a_memory_are_the_whole_and_without_it_are_not() -> None:
    model, (tokens, targets) = network(), sequences()
    at_once = model(tokens).log_likelihood(targets)
    first = model(tokens[:, :6], remember=True)
    second = model(tokens[:, 6:], first.memory)
    halves = torch.cat([first.log_likelihood(targets[:, :6]), second.log_likelihood(targets[:, 6:])], 1)
    torch.testing.assert_close(halves, at_once)
    assert first.memory.states.shape == (3, 4, 7)
    assert not first.memory.states.requires_grad
    apart = model(tokens[:, 6:]).log_likelihood(targets[:, 6:])
    assert not torch.allclose(apart, at_once[:, 6:])


def test_without_a_window_it_is_the_plain_language_model() -> None:
    model, (tokens, targets) = network(window=0), sequences()
    assert not [name for name, _ in model.named_parameters() if "query" in name or "sentinel" in name]
    states = model.embedding(tokens)
    for layer in model.layers:
        states, _ = layer(states)
    expected = model.words(states).log_softmax(-1)
    torch.testing.assert_close(log_probabilities(model(tokens)), expected)
    expected = expected.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(model(tokens).log_likelihood(targets), expected)


def test_dropout_takes_the_same_channels_at_all_time_steps() -> None:
    model = network(dropout=0.5).train()
    dropped = model._drop(torch.ones(20, 9, 30))
    assert (dropped == dropped[:, :1]).all()
    assert {0.0, 2.0} == set(dropped.unique().tolist())


# --- what can be cut from it


def silenced(model: PSMM, graph: Any, nodes: list[int]) -> PSMM:
    """A copy in which what leaves these nodes is zero: consumers' columns, and the query that a state is pointed by."""
    dense, gone = copy.deepcopy(model), torch.tensor(nodes)
    tensors = dict(dense.named_parameters())
    for slot in graph.axes:
        hit = torch.isin(torch.as_tensor(slot.nodes), gone).nonzero().squeeze(-1)
        t = tensors[slot.tensor].data
        if slot.dim == 1:
            t[:, hit] = 0
        elif slot.tensor.startswith("query"):
            t[hit] = 0
    return dense


@pytest.mark.parametrize("window", [0, 4])
def test_embedding_layers_and_query_lose_nodes_and_the_rest_computes_as_before(window: int) -> None:
    model, (tokens, targets) = network(window=window), sequences()
    graph = earlycrop.trace(model, lambda m: ptb.mean(m(tokens), targets))
    assert graph.count == 6 + 9 + 7
    nodes = list(range(0, graph.count, 2))
    dense = silenced(model, graph, nodes)
    cut = earlycrop.shrink(model, graph, nodes)
    assert cut.difference is not None
    assert cut.difference <= 1e-10
    first, second = model.layers
    width = model.embedding.embedding_dim, first.hidden_size, second.hidden_size
    assert sum(width) == 11
    assert max(a / b for a, b in zip(width, (6, 9, 7), strict=True)) < 1
    if window:
        assert model.query.weight.shape == (width[2], width[2])
        assert model.sentinel.shape == (width[2],)
    torch.testing.assert_close(log_probabilities(model(tokens)), log_probabilities(dense(tokens)))
    torch.testing.assert_close(model(tokens).log_likelihood(targets), dense(tokens).log_likelihood(targets))
