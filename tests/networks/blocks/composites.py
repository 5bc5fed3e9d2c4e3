"""Blocks made of blocks, the table of all of them, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks.blocks import (
    ALL,
    WIDTHS,
    Block,
    Description,
    Made,
    Options,
    Pick,
    State,
    Word,
    attention,
    channels,
    convolutions,
    elementwise,
    images,
    sequences,
    vectors,
)
from tests.networks.blocks.convolutions import CONV

Blocks = tuple[Description, ...]


SIMPLE: dict[str, Word] = {
    **elementwise.WORDS, **channels.WORDS, **vectors.WORDS, **convolutions.WORDS, **images.WORDS, **sequences.WORDS,
    **attention.WORDS,
}  # fmt: skip


class Chain(nn.Module):
    """One block after the other; some also take the second input."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, *context) if getattr(block, "context", False) else block(x)
        return x


def make(description: Description, s: State) -> Made:
    """The block of a description, and what it gives for the state ``s``."""
    name, *options = description
    return WORDS[name].make(s, *options)


def chain(blocks: Blocks, s: State) -> tuple[Chain, State]:
    made = []
    for description in blocks:
        module, s = make(description, s)
        made.append(module)
    return Chain(made), s


def project(s: State, width: int) -> nn.Module:
    """To another width; nothing where it is the same."""
    if s.width == width:
        return nn.Identity()
    return CONV[len(s.sizes)](s.width, width, 1) if s.kind == "image" else nn.Linear(s.width, width)


def residual(s: State, how: str, blocks: Blocks) -> Made:
    inner, out = chain(blocks, s)

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.up(self.inner(x))
        match how:
            case "scaled":
                return torch.add(x, y * self.gamma)
            case "product":
                return x * y.sigmoid()
            case "in-place":
                y += x
                return y
            case "difference":
                return (x - y).relu()
        return x + y

    gamma = nn.Parameter(torch.empty(s.along))
    return Block(forward, inner=inner, up=project(out, s.width), gamma=gamma), s


def dense(s: State, *steps: Blocks) -> Made:
    """Every step is given all that came before it, side by side."""
    chains, widths, now = [], [s.width], s
    for blocks in steps:
        module, out = chain(blocks, now)
        chains.append(module)
        widths.append(out.width)
        now = replace(s, width=sum(widths))

    def forward(self: Any, x: Tensor) -> Tensor:
        outputs = [x]
        for step in self.steps:
            outputs.append(step(torch.cat(outputs, s.dim)))
        return torch.cat(outputs, s.dim)

    return Block(forward, steps=nn.ModuleList(chains)), now


def branches(s: State, how: str, *several: Blocks) -> Made:
    made = [chain(blocks, s) for blocks in several]
    width = made[0][1].width

    def forward(self: Any, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        if how == "cat":
            return torch.cat(outputs, s.dim)
        if how == "product":
            return torch.stack([y.tanh() for y in outputs]).prod(0)
        stacked = torch.stack(outputs, s.dim)
        return stacked.amax(s.dim) if how == "max" else stacked.mean(s.dim)

    if how == "cat":
        return Block(forward, branches=nn.ModuleList(m for m, _ in made)), replace(
            s, width=sum(o.width for _, o in made)
        )
    mapped = [nn.Sequential(m, project(o, width)) for m, o in made]
    return Block(forward, branches=nn.ModuleList(mapped)), replace(s, width=width)


def twice(s: State, blocks: Blocks) -> Made:
    """The same module called two times."""
    inner, out = chain(blocks, s)
    module = nn.Sequential(inner, project(out, s.width))
    return Block(lambda self, x: self.module(self.module(x).tanh()), module=module), s


def half(s: State, how: str, k: int, blocks: Blocks) -> Made:
    """The last ``k`` channels go through the blocks, the others stay."""
    inner, out = chain(blocks, replace(s, width=k))

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, s.dim) if how == "chunk" else x.split([s.width - k, k], s.dim)
        return torch.cat([a, self.inner(b)], s.dim)

    return Block(forward, inner=inner), replace(s, width=s.width - k + out.width)


def ladder(s: State, width: int, blocks: Blocks) -> Made:
    """Half the positions, blocks, all the positions again, beside what was there (a U-Net)."""
    down = nn.Conv1d(s.width, width, 3, 2, 1)
    inner, out = chain(blocks, State("image", width, ((s.sizes[0] - 1) // 2 + 1,)))

    def forward(self: Any, x: Tensor) -> Tensor:
        y = functional.interpolate(self.inner(self.down(x)), size=x.shape[2:], mode="linear", align_corners=False)
        return torch.cat([x, y], 1)

    return Block(forward, down=down, inner=inner), replace(s, width=s.width + out.width)


def language(s: State, width: int, blocks: Blocks) -> Made:
    """An embedding whose matrix also gives the scores of every token."""
    inner, out = chain(blocks, State("sequence", width, s.sizes))

    def forward(self: Any, x: Tensor) -> Tensor:
        return functional.linear(self.up(self.inner(self.table(x))), self.table.weight)

    parts = {"table": nn.Embedding(s.width, width), "inner": inner, "up": project(out, width)}
    return Block(forward, **parts), State("sequence", s.width, s.sizes)


def _residual(pick: Pick, s: State) -> Options:
    return pick(("plain", "plain", "scaled", "product", "in-place", "difference")), drawn_inside(pick, s)


def _dense(pick: Pick, s: State) -> Options:
    steps: list[Blocks] = []
    for _ in range(pick((1, 2, 3))):
        steps.append(drawn_inside(pick, dense(s, *steps)[1]))
    return tuple(steps)


def _branches(pick: Pick, s: State) -> Options:
    return pick(("cat", "cat", "product", "mean", "max")), *(drawn_inside(pick, s) for _ in range(pick((2, 3))))


def _half(pick: Pick, s: State) -> Options | None:
    if s.width < 4:
        return None
    how = pick(("chunk", "chunk", "written")) if s.width % 2 == 0 else "written"
    k = s.width // 2 if how == "chunk" else pick(range(2, s.width - 1))
    return how, k, drawn_inside(pick, replace(s, width=k))


def _ladder(pick: Pick, s: State) -> Options | None:
    if len(s.sizes) != 1 or s.sizes[0] < 3:
        return None
    width = pick(WIDTHS)
    return width, drawn_inside(pick, State("image", width, ((s.sizes[0] - 1) // 2 + 1,)))


def _language(pick: Pick, s: State) -> Options:
    width = pick(WIDTHS)
    return width, drawn_inside(pick, State("sequence", width, s.sizes))


COMPOSITES: dict[str, Word] = {
    "residual": Word(ALL, residual, _residual),
    "dense": Word(ALL, dense, _dense),
    "branches": Word(ALL, branches, _branches),
    "twice": Word(ALL, twice, lambda pick, s: (drawn_inside(pick, s),)),
    "half": Word(ALL, half, _half),
    "ladder": Word("image", ladder, _ladder),
    "language": Word("tokens", language, _language),
}
WORDS: dict[str, Word] = {**SIMPLE, **COMPOSITES}
PRODUCERS = ("linear", "conv", "conv-transposed", "matrix", "rnn", "attention", "embedding", "parametrized")
"""What makes channels that may go; drawn more often than the rest."""
LARGEST = {"vector": 96, "sequence": 400, "image": 900}
"""Entries of a state, at most."""


def entries(s: State) -> int:
    return s.example(1).numel()


def drawn(pick: Pick, s: State, names: Sequence[str]) -> tuple[Description, State]:
    """One of these blocks, with options that suit the state."""
    suiting = [n for n in names if s.kind in WORDS[n].kinds]
    for _ in range(20):
        name = pick(suiting)
        options = WORDS[name].options(pick, s)
        if options is not None:
            with torch.device("meta"):
                out = make((name, *options), s)[1]
            if entries(out) <= LARGEST[out.kind] and 2 <= out.width <= 32 and min(out.sizes, default=1) > 0:
                return (name, *options), out
    name = next(n for n in (*PRODUCERS, "activation") if s.kind in WORDS[n].kinds)
    options = WORDS[name].options(lambda several: several[0], s)
    return (name, *(options or ())), make((name, *(options or ())), s)[1]


def drawn_inside(pick: Pick, s: State) -> Blocks:
    """Blocks that leave all but the width as it is."""
    names = [n for n, w in SIMPLE.items() if not w.context]
    blocks: list[Description] = []
    now = s
    for _ in range(pick((1, 2, 2, 3))):
        likely = [n for n in PRODUCERS if s.kind in WORDS[n].kinds]
        for _ in range(10):
            description, out = drawn(pick, now, likely if pick((True, False, False)) else names)
            if (out.kind, out.sizes) == (s.kind, s.sizes):
                blocks.append(description)
                now = out
                break
    return tuple(blocks) or (("activation", "relu"),)
