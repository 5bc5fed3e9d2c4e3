"""What scoring a language model costs beside a gradient on the same batch, as ratios in one process.

One CroP scoring (g and Hg) of the pointer sentinel mixture model, on one batch and on several; the gradient is
that of ordinary training, with the fused LSTM where there is one. The words are random: their number is what counts.
``python -m benchmarks.core --help`` says what the times depend on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.command_line import BenchmarkOptions, require_known, run
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import flow
from tasks import ptb
from tasks.nets.psmm import PSMM
from tasks.text.corpus import Batch

GOAL = 6
"""Gradients that a scoring may take."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    presets: tuple[str, ...] = ("tiny", "small", "default")
    """Presets of tasks.ptb, a row each: their network and length of sequences."""
    vocabulary: int = 10_000
    """Different words."""
    sequences: int = 16
    """Sequences in a batch."""
    batches: int = 3
    """Batches of the scoring on several."""
    repeats: int = REPEATS
    """Timings of each; the median counts."""


QUICK = Options(presets=("tiny",), vocabulary=50, sequences=2, batches=2, repeats=1)


def random_batch(options: Options, length: int) -> Batch:
    """Sequences of random words."""
    tokens = torch.randint(0, options.vocabulary, (options.sequences, length + 1))
    return Batch(tokens[:, :-1], tokens[:, 1:])


def measure(options: Options, preset: ptb.Options) -> tuple[float, float, float]:
    """Seconds of a gradient; a scoring on one batch and, a batch, on several, in gradients."""
    torch.manual_seed(0)
    model = PSMM(options.vocabulary, preset.embedding, preset.widths, preset.window, 0.0)
    batches = [random_batch(options, preset.length) for _ in range(options.batches)]

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return ptb.mean(model(batch.tokens), batch.targets)

    gradient, one, several = in_turn(
        lambda: torch.autograd.grad(loss(model, batches[0]), list(model.parameters())),
        lambda: flow(model, loss, batches[:1]),
        lambda: flow(model, loss, batches),
        repeats=options.repeats,
    )
    return gradient, one / gradient, several / options.batches / gradient


def main(options: Options) -> None:
    """Measure and print."""
    require_known("--presets", options.presets, list(ptb.PRESETS))
    figures = ["gradient_seconds", "scoring_one_batch", "scoring_several_batches", "batches", "goal"]
    results = Results("lstm", options, ["preset"], figures)
    for name in options.presets:
        gradient, one, several = measure(options, ptb.PRESETS[name]())
        row = {"preset": name, "gradient_seconds": gradient, "batches": options.batches, "goal": f"at most {GOAL}"}
        results.add({**row, "scoring_one_batch": one, "scoring_several_batches": several})
    results.print()
    print("a scoring is given in gradients, of several batches a batch")


if __name__ == "__main__":
    run("lstm", main, Options(), QUICK, __doc__)
