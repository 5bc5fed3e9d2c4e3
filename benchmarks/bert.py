"""What half of the heads and half of the feed-forward neurons of a BERT save, as ratios in one process.

The encoder's layers alone, dense beside pruned, on the same hidden states: a training step (forward, backward, AdamW)
and inference; and the complete model's training step beside them, with its embeddings, that nothing is cut from.
Weights and texts are random: their sizes are what counts. Half of every layer goes, so what is ideal is 2.
OMP_NUM_THREADS sets how many cores are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command_line import BenchmarkOptions, fail, require_known, run
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import Limits, prune
from earlycrop.utils.torchvision_compat import load_torchvision

transformers: Any = load_torchvision("transformers")
SIZES: dict[str, dict[str, int]] = {
    "MiniLM-L6-H384": {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    },
    "bert-base-4-layers": {"num_hidden_layers": 4},
    "tiny": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100,
    },
}  # fmt: skip
"""Where a network differs from BERT base; of its 12 layers, all alike, 4 are enough."""
HALF = Limits(ceilings={"*.query": 0.5, "*.intermediate.dense": 0.5}, exclude=["*embed*"])
LONGEST = 512
"""Tokens that BERT has positions for."""
GOAL = 1.6
"""Speed-up of the layers."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    networks: tuple[str, ...] = ("MiniLM-L6-H384", "bert-base-4-layers")
    """Networks, a row each: MiniLM-L6-H384, bert-base-4-layers or tiny."""
    batch: int = 16
    """Texts in a batch."""
    length: int = 64
    """Tokens in a text."""
    repeats: int = REPEATS
    """Timings of each; the median counts."""


QUICK = Options(networks=("tiny",), batch=2, length=8, repeats=1)


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that the model returns."""
    loss: Tensor = model(**batch).loss
    return loss


def network(name: str) -> Any:
    """A BERT with random weights, without dropout."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES[name], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return transformers.BertForSequenceClassification(config)


def training_step(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], None]:
    """A function that takes a step of AdamW."""
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(module).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(name: str, options: Options) -> dict[str, object]:
    """A row: heads and neurons of a layer, before and after, and the time of the dense over that of the pruned one."""
    dense = network(name)
    ids = torch.randint(dense.config.vocab_size, (options.batch, options.length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(options.batch) % 2}
    hidden = torch.randn(options.batch, options.length, dense.config.hidden_size)
    small = copy.deepcopy(dense)
    event = prune(small, model_loss, [batch], "magnitude", 0.01, of="nodes", limits=HALF)

    def layers(encoder: nn.Module) -> Tensor:
        output: Tensor = encoder(hidden)[0]
        return output.square().mean()

    def inference(encoder: nn.Module) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: layers(encoder))

    def speedup(runs: list[Callable[[], Any]]) -> float:
        before, after = in_turn(*runs, repeats=options.repeats)
        return before / after

    models, encoders = (dense, small), (dense.bert.encoder, small.bert.encoder)
    sizes = {key.rpartition(".0.")[2]: size for key, size in event.layers.items() if ".layer.0." in key}
    (heads, heads_left), (neurons, neurons_left) = sizes["attention.self.query"], sizes["intermediate.dense"]
    return {
        "network": name,
        "heads": heads,
        "heads_left": heads_left,
        "neurons": neurons,
        "neurons_left": neurons_left,
        "layers_training_speedup": speedup([training_step(e, layers) for e in encoders]),
        "layers_inference_speedup": speedup([inference(e) for e in encoders]),
        "model_training_speedup": speedup([training_step(m, lambda m: model_loss(m, batch)) for m in models]),
        "layers_goal": f"at least {GOAL}",
    }


def main(options: Options) -> None:
    """Measure and print."""
    require_known("--networks", options.networks, list(SIZES))
    if options.length > LONGEST:
        fail(f"--length must be at most {LONGEST}, the positions that a BERT knows, and is {options.length}")
    figures = [
        "heads", "heads_left", "neurons", "neurons_left", "layers_training_speedup", "layers_inference_speedup",
        "model_training_speedup", "layers_goal",
    ]  # fmt: skip
    results = Results("bert", options, ["network"], figures, ["transformers"])
    for name in options.networks:
        results.add(measure(name, options))
    results.print()


if __name__ == "__main__":
    run("bert", main, Options(), QUICK, __doc__)
