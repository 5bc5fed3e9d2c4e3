"""Language understanding: a pretrained encoder such as BERT, fine-tuned on a task of GLUE.

Devlin, Chang, Lee, Toutanova: "BERT", NAACL 2019; Chen, Frankle, Chang, Liu, Zhang, Wang, Carbin: "The Lottery Ticket
Hypothesis for Pre-trained BERT Networks", NeurIPS 2020, whose recipe and metrics the paper's table 8 has.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import DataFingerprint, Summary, Task
from tasks.data.batches import scoring_order
from tasks.runner.command_line import main
from tasks.runner.errors import require
from tasks.runner.networks import evaluating, model_device
from tasks.runner.options import AtLeast0, Bounds, Clip, Count, CountOr0, Positive, Share
from tasks.runner.options import Options as CommonOptions
from tasks.runner.store import digest
from tasks.text.encoders import encoder, pretrained
from tasks.text.glue_dataset import GLUE, Split, held_out, read, write_predictions
from tasks.text.tokens import Batch, Examples, grouped, sorted_by_length, tokenized

TRAINING, SCORING = 0, 1
Name = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """A language understanding task's configuration."""

    task_name: Name = "rte"
    """Task of GLUE."""
    data: str = "nyu-mll/glue"
    """Data set on the hub, or a folder with train.parquet and validation.parquet (validation_matched and
    validation_mismatched of mnli), or with a folder of them a task."""
    model: str = "bert-base-uncased"
    """Encoder on the hub, or a folder, with a head for classifying sequences in transformers."""
    length: Annotated[int, Bounds(minimum=8)] = 128
    """Most tokens of an example, special ones included; longer ones are cut there, and counted."""
    examples: CountOr0 = 0
    """Most training examples; 0 is all. They are the same for every seed."""
    validation: Share = 0.05
    """Share of the training examples that is held out, and measured after every epoch; the same for every seed."""
    batch: Count = 32
    """Examples in a batch."""
    learning_rate: Positive = 2e-5
    """AdamW's largest learning rate."""
    warmup: Share = 0.1
    """Share of the training in which the learning rate rises, linearly, before it falls to 0 as it rose."""
    weight_decay: AtLeast0 = 0.01
    """Of the weight matrices; biases and norms have none."""
    clip: Clip = 1.0
    """Largest gradient norm, or None for no clipping."""
    scoring: Count = 5
    """Batches that pruning scores are computed on."""
    sparsity: float = 0.5
    """Share to remove, between 0 and 1, of what --of names. Single weights are those of the encoder and the pooler, as
    Chen et al. count them; nodes' weights are all, with the embeddings (22 % of BERT base's)."""
    include: tuple[str, ...] = ()
    """Embedding tables that the sparsity of single weights counts, by name or pattern; they lose weights unless they
    are excluded."""
    exclude: tuple[str, ...] = ("*embed*",)
    """Layers to leave alone, by name or pattern. What is given takes the place of "*embed*", the embeddings: name that
    too to leave them alone."""
    epochs: int = 3
    record: bool = False
    """Whether to write what is predicted of each example, and all metrics, into the run's folder."""


def default() -> Options:
    """The recipe of Chen et al.: BERT base, three epochs."""
    return Options()


def small() -> Options:
    """A BERT of 6 layers, 384 wide, for one CPU core."""
    return Options(model="sentence-transformers/all-MiniLM-L6-v2", learning_rate=1e-4, batch=16, scoring=3)


PRESETS = {"default": default, "small": small}


class LanguageUnderstanding(Task):
    """A task of GLUE, and an encoder, as a :class:`tasks.Task`."""

    higher_is_better = True

    def __init__(self, options: Options) -> None:
        self.options, self.clip, self.include = options, options.clip, options.include
        self.glue = GLUE[options.task_name]
        self.dataset, self.metric = self.glue.name, self.glue.metrics[0]
        self.split = self.glue.evaluated[0].replace("_", " ")
        splits = dict(read(options.data, self.glue, options.task_name))
        train, validation = held_out(splits.pop("train"), options.examples, options.validation)
        require(len(train.labels) > 0, f"{options.data} has no training examples left: lower --validation.")
        self.encoder = encoder(options.model, max(1, self.glue.classes))
        max_length = self.encoder.longest
        require(
            options.length <= max_length, f"length is {options.length}, and {options.model} takes {max_length} at most."
        )
        self.network = self.encoder.name
        self.training = self._tokenized(train)
        self.validation = self._tokenized(validation) if len(validation.labels) else None
        self.evaluated = {name: self._tokenized(split) for name, split in splits.items()}
        self.batches_per_epoch = math.ceil(len(self.training) / options.batch)
        held_out_examples = [] if self.validation is None else [self.validation]
        self.examples = [self.training, *held_out_examples, *self.evaluated.values()]
        if truncated := sum(examples.truncated for examples in self.examples):
            warnings.warn(
                f"{truncated} of {sum(map(len, self.examples))} examples, {self.training.truncated} of them to train "
                f"on, are longer than --length {options.length} tokens, and are cut there",
                stacklevel=2,
            )

    def _tokenized(self, split: Split) -> Examples:
        return tokenized(split, self.encoder.tokenizer, self.options.length)

    def model(self) -> nn.Module:
        """The pretrained encoder under a head with random weights."""
        return pretrained(self.encoder)

    def trained_on(self) -> DataFingerprint:
        """How many examples there are, and a digest of their tokens and labels."""
        tensors = [t for e in self.examples for t in (*e.inputs.values(), e.starts, e.labels)]
        return {"examples": len(self.training), "digest of the tokens": digest(*tensors)}

    def optimizer(self, model: nn.Module) -> Optimizer:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        decay = self.options.weight_decay
        return torch.optim.AdamW(groups, self.options.learning_rate, eps=1e-8, weight_decay=decay, fused=True)

    def learning_rate(self, progress: float) -> float:
        """Linear up to the largest and down to 0, a hair above 0 at the very start."""
        warmup = self.options.warmup
        share = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
        return self.options.learning_rate * max(share, 1e-3)

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """Every training example once, with others of like length."""
        device, random = model_device(model), np.random.default_rng((self.options.seed, epoch, TRAINING))
        for rows in grouped(self.training.lengths, self.options.batch, random):
            yield self.training.batch(rows, device)

    def batch_to_measure(self, model: nn.Module) -> Batch:
        """The training examples of median length."""
        rows = self.training.lengths.argsort(stable=True)
        start = max(0, (len(rows) - self.options.batch) // 2)
        return self.training.batch(rows[start : start + self.options.batch], model_device(model))

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Random training examples."""
        options, random = self.options, np.random.default_rng((self.options.seed, epoch, SCORING))
        rows = torch.from_numpy(random.permutation(len(self.training)))
        if self.glue.classes:
            rows = scoring_order(options, rows, self.training.labels)
        parts = torch.split(rows[: options.scoring * options.batch], options.batch)
        return [self.training.batch(part, model_device(model)) for part in parts]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy, or the squared error of a number."""
        return self._error(model(**batch.inputs).logits, batch.labels)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same, in bfloat16 on a GPU."""
        return self._error(self._logits(model, batch), batch.labels)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.labels.is_cuda):
            logits: Tensor = model(**batch.inputs).logits
        return logits.float()

    def _error(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.glue.classes:
            return functional.cross_entropy(logits, labels)
        return functional.mse_loss(logits.squeeze(-1), labels)

    def log(self) -> dict[str, float]:
        return {"truncated": self.training.truncated}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """All metrics on the held-out training examples."""
        if self.validation is None:
            return {}
        measured = self.glue.measured(self.validation.labels.numpy(), self._predicted(model, self.validation))
        return {f"validation_{name}": value for name, value in measured.items()}

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float | Tensor]:
        """Log probabilities of the classes on the scoring batches, and what ``validate`` measures."""
        diagnostics: dict[str, float | Tensor] = dict(self.validate(model))
        if self.glue.classes:
            with evaluating(model):
                diagnostics["prediction"] = torch.cat([self._logits(model, b).log_softmax(-1) for b in batches])
        return diagnostics

    def evaluate(self, model: nn.Module) -> float:
        """The task's first metric on its first evaluated split."""
        examples = self.evaluated[self.glue.evaluated[0]]
        return self.glue.measured(examples.labels.numpy(), self._predicted(model, examples))[self.metric]

    def record(self, model: nn.Module, folder: Path) -> list[Path]:
        """All metrics of all evaluated splits in metrics.json, and predictions as GLUE takes them, a file a split."""
        return write_predictions(self.glue, folder, {
            name: (examples.labels.numpy(), self._predicted(model, examples))
            for name, examples in self.evaluated.items()
        })  # fmt: skip

    def _predicted(self, model: nn.Module, examples: Examples) -> np.ndarray:
        """(N,): the likeliest class of each example, or its number."""
        predicted = torch.zeros(len(examples), dtype=examples.labels.dtype)
        with evaluating(model) as device:
            for rows in sorted_by_length(examples.lengths, 2 * self.options.batch):
                logits = self._logits(model, examples.batch(rows, device)).cpu()
                predicted[rows] = logits.argmax(-1) if self.glue.classes else logits.squeeze(-1)
        return predicted.numpy()


SUMMARY = Summary("GLUE", "hub or folder", "BERT", "13 (--preset small)")
make = LanguageUnderstanding


if __name__ == "__main__":
    main("glue")
