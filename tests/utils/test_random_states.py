"""Scoring, tracing, cutting and making a pruner leave every random state as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import earlycrop
from earlycrop import Pruner, PrunerOptions
from earlycrop.scoring.derivatives import flow
from earlycrop.triggers.mask_distance import NodeMaskTracker
from earlycrop.utils.random_states import preserve_random_states, seed_all
from tests.toy import Net, mlp


def states() -> list[Any]:
    """Return the states of all generators, and how many seeds wait for a device that nobody has used yet."""
    return [
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
        len(torch.cuda._queued_calls),
    ]  # fmt: skip


def drawing(model: nn.Module, x: Tensor) -> Tensor:
    noise = random.random() + np.random.rand() + torch.rand(()) + torch.randint(0, 9, (4,)).sum()
    return model(x + noise).square().mean()  # type: ignore[no-any-return]


def noisy() -> nn.Module:
    return Net(lambda m, x: m.net(x + torch.randn_like(x) + random.random()), net=mlp())


def with_probe(model: nn.Module, x: Tensor) -> None:
    options = PrunerOptions(ntk_probe=x, log_triggers=True)
    pruner = Pruner(model, SGD(model.parameters(), 0.1), drawing, "earlycrop-s", 0.5, epochs=4, options=options)
    pruner.step([x])
    pruner.step([x])


USES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "scoring": lambda model, x: flow(model, drawing, [x, x]),
    "tracing": lambda model, x: earlycrop.trace(model, x),
    "tracing on values": lambda model, x: earlycrop.trace(model, lambda m: float(drawing(m, x)) and m(x)),
    "cutting": lambda model, x: earlycrop.prune(model, drawing, [x], "magnitude", 0.5),
    "cutting by time": lambda model, x: earlycrop.prune(model, drawing, [x], "crop", 0.1, of="time"),
    "zeroing": lambda model, x: earlycrop.prune(model, drawing, [x], "snip", 0.5, structured=False),
    "a pruner with a probe": with_probe,
    "masks of nodes": lambda model, x: NodeMaskTracker(0.5, earlycrop.Limits()).update(model, drawing, [x]),
}


@pytest.mark.filterwarnings("ignore:asked to remove .* of the time")
@pytest.mark.usefixtures("without_type_checks")  # they draw from Python's generator
@pytest.mark.parametrize("use", list(USES))
def test_every_random_state_is_as_it_was(use: str) -> None:
    model, x = noisy(), torch.randn(4, 6)
    before = states()
    USES[use](model, x)
    assert states() == before


def test_numbers_repeat_after_the_same_seed() -> None:
    def draw() -> list[float]:
        seed_all(3)
        return [float(torch.rand(())), np.random.rand(), random.random()]

    before = states()
    with preserve_random_states():
        drawn = draw()
        assert draw() == drawn
        torch.manual_seed(3)
        assert float(torch.rand(())) == drawn[0]
        assert states()[:3] != before[:3]
    assert states()[:3] == before[:3]
