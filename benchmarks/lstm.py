"""What scoring a language model costs beside a gradient on the same batch, as ratios in one process.

One CroP scoring (g and Hg) of the pointer sentinel mixture model, on one batch and on several; the gradient is
that of ordinary training, with the fused LSTM where there is one. The words are random: their number is what counts.

Run as ``python -m benchmarks.lstm``; ``benchmarks.core`` says what its times depend on.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.core import in_turn
from earlycrop import flow
from tasks import ptb
from tasks._sequences import Batch
from tasks.nets.psmm import PSMM

VOCABULARY, SEQUENCES, SEVERAL = 10_000, 16, 3


def batch(length: int) -> Batch:
    """Sequences of random words."""
    tokens = torch.randint(0, VOCABULARY, (SEQUENCES, length + 1))
    return Batch(tokens[:, :-1], tokens[:, 1:])


def measured(options: ptb.Options) -> tuple[float, float, float]:
    """Seconds of a gradient; a scoring on one batch and, a batch, on several, in gradients."""
    torch.manual_seed(0)
    model = PSMM(VOCABULARY, options.embedding, options.widths, options.window, 0.0)
    batches = [batch(options.length) for _ in range(SEVERAL)]

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return ptb.mean(model(batch.tokens), batch.targets)

    plain, one, several = in_turn(
        lambda: torch.autograd.grad(loss(model, batches[0]), list(model.parameters())),
        lambda: flow(model, loss, batches[:1]),
        lambda: flow(model, loss, batches),
    )
    return plain, one / plain, several / SEVERAL / plain


def main() -> None:
    """Measure and print."""
    table = Table("preset", "one gradient", "scoring, one batch", f"scoring, a batch of {SEVERAL}", "goal")
    for name in ("tiny", "small", "default"):
        plain, one, several = measured(ptb.PRESETS[name]())
        table.add_row(name, f"{plain:.3f} s", f"{one:.2f} gradients", f"{several:.2f} gradients", "at most 6")
    Console().print(table)


if __name__ == "__main__":
    main()
