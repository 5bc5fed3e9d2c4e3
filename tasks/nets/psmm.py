"""Pointer sentinel mixture models: an LSTM that copies a word from its recent past or draws one from the vocabulary.

Source: Merity, Xiong, Bradbury, Socher: "Pointer Sentinel Mixture Models", ICLR 2017, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL = 0.1
"""Embeddings, the sentinel and the vocabulary's weights start uniformly within this of 0."""


@dataclass(frozen=True)
class Memory:
    """What a stretch of text leaves for the one that follows it, without the graph that it comes from."""

    hidden: tuple[tuple[Tensor, Tensor], ...]
    """Each LSTM's h and c, (1, batch, width)."""
    states: Tensor
    """The last LSTM's outputs at the words that can still be pointed at, (batch, past, width)."""
    words: Tensor
    """Those words, (batch, past)."""

    def fits(self, model: PSMM) -> bool:
        """Whether it is as wide as the model is now."""
        return [h.shape[-1] for h, _ in self.hidden] == [layer.hidden_size for layer in model.layers]


@dataclass(frozen=True)
class Mixture:
    """What is said of each next word: the two distributions and the gate between them."""

    logits: Tensor
    """Of the vocabulary, (batch, time, vocabulary)."""
    shares: Tensor | None
    """Logarithms of the a_i and, last, of g, (batch, time, past + time + 1); None for a model without a window."""
    words: Tensor
    """What is pointed at, (batch, past + time)."""
    memory: Memory | None
    """For the text that follows, if it was asked for."""

    def log_likelihood(self, targets: Tensor) -> Tensor:
        """Of the ``targets`` (batch, time) alone, without another tensor as wide as the vocabulary."""
        drawn = -functional.cross_entropy(self.logits.flatten(0, 1), targets.flatten(), reduction="none")
        drawn = drawn.view_as(targets)
        if self.shares is None:
            return drawn
        elsewhere = self.words.unsqueeze(1) != targets.unsqueeze(-1)
        copied = self.shares[..., :-1].masked_fill(elsewhere, _nothing(self.shares))
        return torch.cat([copied, (drawn + self.shares[..., -1]).unsqueeze(-1)], -1).logsumexp(-1)


class PSMM(nn.Module):
    """The mixture p(y) = g p_vocab(y) + sum of a_i over the i with x_i = y.

    With h_i the last LSTM's state after word x_i and h that after the present one, q = tanh(W h + b), and the softmax
    over q.h_i for the last ``window`` words, the present one included, and q.s for the sentinel s gives the a_i and,
    last, the gate g: they sum to one. p_vocab is a softmax of h, linearly mapped. ``window`` 0 leaves the
    plain LSTM language model. Dropout is variational (Gal and Ghahramani 2016): one mask for all time steps, on the
    embeddings and on each LSTM's outputs. Deviations: no zoneout; what is pointed at has no dropout.
    """

    def __init__(self, vocabulary: int, embedding: int, widths: tuple[int, ...], window: int, dropout: float) -> None:
        super().__init__()
        self.window, self.dropout = window, dropout
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.layers = nn.ModuleList(  # one a layer: each may come to a width of its own
            nn.LSTM(before, after, batch_first=True)
            for before, after in zip((embedding, *widths), widths, strict=False)
        )
        if window:
            self.query = nn.Linear(widths[-1], widths[-1])
            self.sentinel = nn.Parameter(torch.empty(widths[-1]).uniform_(-INITIAL, INITIAL))
        self.words = nn.Linear(widths[-1], vocabulary)
        for weight in (self.embedding.weight, self.words.weight):
            nn.init.uniform_(weight, -INITIAL, INITIAL)
        nn.init.zeros_(self.words.bias)

    def forward(self, tokens: Tensor, memory: Memory | None = None, remember: bool = False) -> Mixture:
        """What comes after each of ``tokens`` (batch, time); with ``remember``, its memory is filled.

        A memory of other widths than the model's is left aside.
        """
        if memory is not None and not memory.fits(self):
            memory = None
        states, hidden = self._recur(tokens, memory)
        top = self._drop(states)
        if memory is not None:
            states, tokens = torch.cat([memory.states, states], 1), torch.cat([memory.words, tokens], 1)
        shares = self._shares(top, states) if self.window else None
        after = None
        if remember:  # only then, as what a network returns keeps its size
            past = max(tokens.shape[1] - self.window, 0)
            after = Memory(hidden, states[:, past:].detach(), tokens[:, past:])
        return Mixture(self.words(top), shares, tokens, after)

    def _recur(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        states, hidden = self.embedding(tokens), []
        for i, layer in enumerate(self.layers):
            states, (h, c) = layer(self._drop(states), None if memory is None else memory.hidden[i])
            hidden.append((h.detach(), c.detach()))
        return states, tuple(hidden)

    def _drop(self, states: Tensor) -> Tensor:
        return functional.dropout1d(states.mT, self.dropout, self.training).mT

    def _shares(self, top: Tensor, states: Tensor) -> Tensor:
        """Logarithms of the a_i and, last, of g: (batch, time, past + time + 1)."""
        query = self.query(top).tanh()
        scores = torch.cat([query @ states.mT, (query @ self.sentinel).unsqueeze(-1)], -1)
        ends = torch.arange(states.shape[1] - query.shape[1], states.shape[1], device=query.device).unsqueeze(-1)
        places = torch.arange(states.shape[1] + 1, device=query.device)
        hidden = (places > ends) | (places <= ends - self.window)
        hidden[:, -1] = False
        return scores.masked_fill(hidden, _nothing(scores)).log_softmax(-1)


def _nothing(logarithms: Tensor) -> float:
    """A logarithm of 0 that is finite, also where others are taken from it: infinities have no derivative."""
    return torch.finfo(logarithms.dtype).min / 4
