"""Language modelling on the Penn Treebank, or any other text in words, by a pointer sentinel mixture model.

Merity, Xiong, Bradbury, Socher: "Pointer Sentinel Mixture Models", ICLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks import DataFingerprint, Summary, Task
from tasks.nets.psmm import PSMM, Memory, Mixture
from tasks.runner.command_line import main
from tasks.runner.errors import require
from tasks.runner.networks import evaluating, model_device
from tasks.runner.options import Bounds, Clip, Count, CountOr0, Counts, Positive, Share
from tasks.runner.options import Options as CommonOptions
from tasks.runner.store import digest
from tasks.text.corpus import Batch, chunks, parts, read, streams

TRAINING, SCORING = 0, 1
STREAMS, STRETCH = 16, 16
"""An evaluated text is read in so many places at once, and in stretches of so many words."""
STATE = ("rate", "progress", "best", "size", "validated", "rates")
"""What a checkpoint keeps of the task."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """A language model's configuration."""

    data: str = "data/ptb"
    """Folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt (any name in the place of ptb; .tokens in that of .txt)
    or parquet files, or a data set on the hub: owner/name or owner/name:configuration."""
    tokens: CountOr0 = 0
    """Words of the training split that are trained on, the first ones; 0 means all. The vocabulary is that of all."""
    vocabulary: CountOr0 = 0
    """Words of the vocabulary, the most frequent ones, the others being <unk>; 0 means all of the training split."""
    embedding: Count = 300
    """Width of the word embeddings."""
    widths: Counts = (300,)
    """Hidden units of each LSTM layer."""
    window: CountOr0 = 100
    """Words that the pointer looks back on, the present one included; 0 leaves it and its sentinel out."""
    dropout: Share = 0.3
    """Share of the channels that are dropped in training, of the embeddings and of each layer's outputs."""
    carry: bool = True
    """Whether hidden states are carried along contiguous text; else it is shuffled in chunks that start from zeros."""
    length: Count = 35
    """Words of a sequence that is trained on, and of a chunk."""
    epochs_per_pass: Count = 1
    """Epochs that it takes to read the text once; each goes on where the last one ended, with an empty memory."""
    batch: Count = 128
    """Sequences in a batch."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate at the start."""
    decay: Annotated[float, Bounds(minimum=1)] = 4.0
    """What the learning rate is divided by after an epoch that did not lower the validation perplexity."""
    clip: Clip = 0.25
    """Largest gradient norm, or None for no clipping."""
    scoring: Count = 5
    """Batches that pruning scores are computed on."""
    include: tuple[str, ...] = ("*embed*",)
    """Embedding tables that lose single weights as well, by name or pattern, and that their sparsity counts."""


def default() -> Options:
    """The network and optimizer that the paper's authors take, on contiguous text."""
    return Options()


def paper() -> Options:
    """The paper's setting as its authors' code has it: shuffled chunks of 80 words, each on its own."""
    return Options(carry=False, length=80, window=80, as_authors=True)


def standard() -> Options:
    """Two layers of 650, as Merity et al. have them, meant for a GPU; not measured yet."""
    return Options(embedding=650, widths=(650, 650), dropout=0.5, length=70, batch=32, epochs=60)


def small() -> Options:
    """One layer of 200, once over the text in ten epochs, after each of which it may be cut; for two CPU cores."""
    return Options(embedding=200, widths=(200,), dropout=0.1, batch=20, epochs_per_pass=10, epochs=10)


def tiny() -> Options:
    """One layer of 64 on a share of the text and its commonest words, to compare methods on one CPU core."""
    return Options(
        tokens=100_000, vocabulary=2000, embedding=64, widths=(64,), window=35, dropout=0.1, batch=16,
        length=20, epochs=6, learning_rate=3e-3, scoring=3,
    )  # fmt: skip


PRESETS = {
    "default": default, "paper": paper, "standard": standard, "small": small, "tiny": tiny,
}  # fmt: skip


def mean(mixture: Mixture, targets: Tensor) -> Tensor:
    """-log p of the targets, over those that are no padding, in nats."""
    counted = targets >= 0
    return -(mixture.log_likelihood(targets.clamp(min=0)) * counted).sum() / counted.sum()


class LanguageModelling(Task):
    """A corpus as a :class:`tasks.Task`."""

    metric, higher_is_better, split = "perplexity", False, "test"

    def __init__(self, options: Options) -> None:
        self.options, self.clip, self.include = options, options.clip, options.include
        self.corpus = read(options.data, options.vocabulary)
        self.words = self.corpus.train[: options.tokens or None]
        self.dataset = self.corpus.name + (f", {len(self.words)} words" if options.tokens else "")
        self.dataset += f", {len(self.corpus.vocabulary)} known" if options.vocabulary else ""
        kind = "psmm" if options.window else "lstm"
        self.network = "-".join(map(str, (kind, options.embedding, *options.widths)))
        end, carry = self.corpus.end, options.carry
        self.text = streams(self.words, end, options.batch) if carry else chunks(self.words, end, options.length)
        self.part = (options.length, 1) if carry else (options.batch, 0)
        size, dim = self.part
        self.in_all, passing = math.ceil(self.text.tokens.shape[dim] / size), options.epochs_per_pass
        message = f"epochs_per_pass must be at most the text's {self.in_all} batches, not {passing}."
        require(passing <= self.in_all, message)
        self.batches_per_epoch = math.ceil(self.in_all / passing)
        self.memory: Memory | None = None
        self.rate, self.progress, self.size = options.learning_rate, 0.0, 0
        self.best: float | None = None
        self.validated: tuple[float, int] | None = None  # perplexity, and number of weights
        self.rates: list[list[Any]] = []  # progress, and rate, best and size from there on

    def model(self) -> nn.Module:
        """A pointer sentinel mixture model, or without a window an LSTM language model."""
        options = self.options
        return PSMM(len(self.corpus.vocabulary), options.embedding, options.widths, options.window, options.dropout)

    def trained_on(self) -> DataFingerprint:
        """The text's size, its vocabulary's, and a digest of all that is read."""
        corpus = self.corpus
        read = digest(*corpus.vocabulary, self.words, corpus.valid, corpus.test)
        return {"words": len(self.words), "vocabulary": len(corpus.vocabulary), "digest of the text": read}

    def optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.Adam(model.parameters(), self.options.learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The rate that validation has left, or where training is taken back to an earlier point, had left there."""
        if progress < self.progress:
            self.rates = [line for line in self.rates if line[0] <= progress]
            earlier: list[Any] = self.rates[-1] if self.rates else [0.0, self.options.learning_rate, None, 0]
            (_, self.rate, self.best, self.size), self.validated = earlier, None
        if self.validated is not None:
            self._settle(*self.validated)
        if self.validated is not None or not self.rates:
            self.rates = [*self.rates, [progress, self.rate, self.best, self.size]]
        self.progress, self.validated = progress, None
        return self.rate

    def _settle(self, perplexity: float, size: int) -> None:
        """Lower the rate on a plateau. Two networks that differ in their number of weights are not compared."""
        if size != self.size:
            self.best, self.size = None, size
        if self.best is not None and perplexity >= self.best:
            self.rate /= self.options.decay
        self.best = perplexity if self.best is None else min(self.best, perplexity)

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """The epoch's part of the text, with the memory of the last training step, or of chunks in another order for
        each pass.
        """
        options, device, text, self.memory = self.options, model_device(model), self.text, None
        before, place = divmod(epoch - 1, options.epochs_per_pass)
        if not options.carry:
            order = np.random.default_rng((options.seed, before + 1, TRAINING)).permutation(len(text.tokens))
            text = Batch(text.tokens[order], text.targets[order])
        first, last = (p * self.in_all // options.epochs_per_pass for p in (place, place + 1))
        for part in islice(parts(text, *self.part), first, last):
            memory = self.memory if options.carry else None
            yield Batch(part.tokens.to(device), part.targets.to(device), memory)

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Sequences from random places of the training text, without what came before them."""
        options, device, end = self.options, model_device(model), self.corpus.end
        length = min(options.length, len(self.words))
        random = np.random.default_rng((options.seed, epoch, SCORING))
        starts = random.integers(0, len(self.words) - length + 1, (options.scoring, options.batch, 1))
        places = torch.from_numpy(starts) + torch.arange(length)
        tokens, targets = (t.flatten() for t in streams(self.words, end, 1)[:2])
        return [Batch(tokens[p].to(device), targets[p].to(device)) for p in places]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean of -log p(word) over the words that count, in nats."""
        mixture = model(batch.tokens, batch.memory)
        return mean(mixture, batch.targets)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same, and what the next batch needs to go on."""
        mixture = model(batch.tokens, batch.memory, remember=True)
        self.memory = mixture.memory
        return mean(mixture, batch.targets)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Perplexity of the validation split, which the learning rate of the next epoch goes by."""
        value = self.perplexity(model, self.corpus.valid)
        self.validated = value, sum(int(p.count_nonzero()) for p in model.parameters())
        return {"perplexity": value, "log_perplexity": math.log(value)}

    def evaluate(self, model: nn.Module) -> float:
        return self.perplexity(model, self.corpus.test)

    def perplexity(self, model: nn.Module, words: Tensor) -> float:
        """exp of the mean of -log p over every word of a text, read as in training: on from what came before, or not.

        What came before is missing at ``STREAMS`` places, whatever the batch size in training.
        """
        end, carry = self.corpus.end, self.options.carry
        text = streams(words, end, STREAMS) if carry else chunks(words, end, self.options.length)
        memory, total = None, 0.0
        with evaluating(model) as device:
            for tokens, targets, _ in parts(text, STRETCH, 1) if carry else parts(text, STREAMS, 0):
                mixture = model(tokens.to(device), memory, remember=True)
                memory = mixture.memory if carry else None
                total += float(mean(mixture, targets.to(device))) * int((targets >= 0).sum())
        with np.errstate(over="ignore"):  # infinite then, and for the training loop to say
            return float(np.exp(total / len(words)))

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state[name])


SUMMARY = Summary("Penn Treebank", "hub or folder", "pointer sentinel LSTM", "1 (--preset tiny)")
make = LanguageModelling


if __name__ == "__main__":
    main("ptb")
