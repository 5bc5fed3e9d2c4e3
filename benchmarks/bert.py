"""What half of the heads and half of the feed-forward neurons of a BERT save, as ratios in one process.

The encoder's layers alone, dense beside pruned, on the same hidden states: a training step (forward, backward, AdamW)
and inference; and the whole model's training step beside them, with its embeddings, that nothing is cut from. Weights
and texts are random: their sizes are what counts. Half of every layer goes, so what is ideal is 2.

Run as ``python -m benchmarks.bert``; OMP_NUM_THREADS sets how many cores it takes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.core import in_turn
from earlycrop import Limits, prune
from tasks._torchvision import load

transformers: Any = load("transformers")
SIZES: dict[str, dict[str, int]] = {
    "MiniLM-L6-H384": {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    },
    "bert-base, 4 layers": {"num_hidden_layers": 4},
}  # fmt: skip
"""What is not as in BERT base; of its own 12 layers, all alike, 4 do."""
BATCH, LENGTH = 16, 64
HALF = Limits(ceilings={"*.query": 0.5, "*.intermediate.dense": 0.5}, exclude=["*embed*"])
GOAL = 1.6


@dataclass(frozen=True)
class Speedup:
    """Dense time over pruned time."""

    training: float
    inference: float
    whole: float
    """Of the whole model's training step."""
    heads: tuple[int, int]
    neurons: tuple[int, int]
    """Of a layer, before and after."""


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def network(sizes: dict[str, int]) -> nn.Module:
    """A BERT with random weights, without dropout."""
    torch.manual_seed(0)
    drop = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **drop)
    module: nn.Module = transformers.BertForSequenceClassification(config)
    return module


def texts(width: int) -> tuple[dict[str, Tensor], Tensor]:
    """A batch for the whole model, and hidden states for its layers."""
    ids = torch.randint(1000, 30000, (BATCH, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(BATCH) % 2}
    return batch, torch.randn(BATCH, LENGTH, width)


def training_step(module: nn.Module, loss: Any) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()

    return step


def measured(sizes: dict[str, int]) -> Speedup:
    """Both networks in turn, each kind of run on its own."""
    dense = network(sizes)
    batch, hidden = texts(dense.config.hidden_size)
    small = copy.deepcopy(dense)
    event = prune(small, model_loss, [batch], "magnitude", 0.01, of="nodes", limits=HALF)
    both = (dense, small)

    def layers(encoder: nn.Module) -> Tensor:
        out: Tensor = encoder(hidden)[0]
        return out.square().mean()

    def inference(encoder: nn.Module) -> Any:
        def run() -> None:
            with torch.no_grad():
                layers(encoder)

        return run

    encoders = [model.bert.encoder for model in both]
    ratios = []
    for runs in (
        [training_step(e, layers) for e in encoders],
        [inference(e) for e in encoders],
        [training_step(m, lambda m: model_loss(m, batch)) for m in both],
    ):
        before, after = in_turn(*runs)
        ratios.append(before / after)
    told = {name.rpartition(".0.")[2]: event.layers[name] for name in event.layers if ".layer.0." in name}
    return Speedup(*ratios, told["attention.self.query"], told["intermediate.dense"])


def main() -> None:
    """Measure and print."""
    table = Table("network", "heads", "neurons", "layers, training", "layers, inference", "whole, training")
    for name, sizes in SIZES.items():
        found = measured(sizes)
        sizes_told = (f"{before} to {after}" for before, after in (found.heads, found.neurons))
        table.add_row(name, *sizes_told, *(f"{r:.2f}x" for r in (found.training, found.inference, found.whole)))
    console = Console()
    console.print(table)
    console.print(f"goal: at least {GOAL}x of the layers, in training and inference")


if __name__ == "__main__":
    main()
