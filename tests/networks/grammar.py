"""A grammar of networks: a recipe is drawn block by block, printed as plain tuples, and built into a module.

A failing recipe is pasted as it is: ``build(Recipe(...))`` gives the network and its example again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks.blocks import Pick, State
from tests.networks.blocks.composites import PRODUCERS, WORDS, Blocks, drawn, make, project


@dataclass(frozen=True)
class Recipe:
    """A network in plain words.

    heads: the numbers of blocks after which the network returns something: a map of what is there to 3 channels, or,
    where it is negative, what is there. context: there is a second input, a sequence of 5 times 6 channels.
    """

    start: State
    blocks: Blocks
    heads: tuple[int, ...]
    batch: int = 2
    context: bool = False
    seed: int = 0


class Network(nn.Module):
    """The module of a recipe; it returns a tensor, or a tuple of them."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.body, self.heads = nn.ModuleList(), nn.ModuleDict()
        s = recipe.start
        for i, description in enumerate(recipe.blocks, 1):
            module, s = make(description, s)
            self.body.append(module)
            if i in recipe.heads:
                self.heads[str(i)] = project(s, 3)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = []
        for i, block in enumerate(self.body, 1):
            x = block(x, *context) if getattr(block, "context", False) else block(x)
            if i in self.recipe.heads:
                outputs.append(self.heads[str(i)](x))
            if -i in self.recipe.heads:
                outputs.append(x)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]


def drawn_recipe(pick: Pick, kind: str) -> Recipe:
    """``kind``: vector, tokens, sequence, or image1 to image3."""
    width = pick((3, 4, 6, 8))
    if kind.startswith("image"):
        nd = int(kind[-1])
        s = State("image", width, tuple(pick({1: (4, 6, 9), 2: (3, 4, 6), 3: (2, 3)}[nd]) for _ in range(nd)))
    else:
        s = State(kind, 11 if kind == "tokens" else width, () if kind == "vector" else (pick((2, 3, 4, 6)),))
    context, count = pick((False, False, False, True)), pick(range(2, 8))
    start, blocks = s, []
    names = [n for n, w in WORDS.items() if context or not w.context]
    for i in range(count):
        likely = [n for n in PRODUCERS if s.kind in WORDS[n].kinds] or ["linear"]
        description, s = drawn(pick, s, likely if i == 0 or pick((True, False, False)) else names)
        blocks.append(description)
    heads = {count}  # a product with a weight, at least; sometimes what an earlier block gives, mapped or as it is
    if pick((False, False, True)):
        heads.add(pick((1, -1)) * pick(range(1, count + 1)))
    return Recipe(start, tuple(blocks), tuple(sorted(heads)), pick((2, 3, 1)), context, pick(range(100)))


KINDS = ("vector", "tokens", "sequence", "image1", "image2", "image3")


@st.composite
def recipes(draw: st.DrawFn, kind: str) -> Recipe:
    return drawn_recipe(lambda several: draw(st.sampled_from(several)), kind)


def inputs(recipe: Recipe) -> tuple[Tensor, ...]:
    x = recipe.start.example(recipe.batch)
    return (x, torch.randn(recipe.batch, 5, 6, dtype=torch.float64)) if recipe.context else (x,)


def build(recipe: Recipe) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network in float64, with random weights, biases and statistics, none of them 0 or 1, and its example."""
    torch.manual_seed(recipe.seed)
    model = Network(recipe).double().eval()
    with torch.no_grad():
        for t in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            t.copy_(torch.rand_like(t) + 0.3 if t.ndim < 2 else torch.randn_like(t) / t[0].numel() ** 0.5)
    return model, inputs(recipe)
