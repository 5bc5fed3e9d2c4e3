"""The penalty on the scales of batch norms, which Early-Bird trains by."""

from __future__ import annotations

import torch

from earlycrop import METHODS
from tests.toy import data, loss, started


def test_early_bird_has_its_penalty_until_it_prunes() -> None:
    model, optimizer, pruner = started("earlybird", 0.5, epochs=8, penalty=0.3)
    pruner.step(data())
    pushed = []
    for _ in range(8):
        before = model[1].weight.detach().clone()
        optimizer.zero_grad()
        loss(model, data()[0]).backward()
        gradient = model[1].weight.grad.clone()
        optimizer.step()
        more = model[1].weight.grad - gradient
        pushed.append(bool(more.any()))
        if pushed[-1]:
            torch.testing.assert_close(more, 0.3 * before.sign())
        pruner.step(data())
    assert pruner.event is not None
    assert pushed == [True] * pruner.event.epoch + [False] * (8 - pruner.event.epoch)
    assert METHODS["earlybird"].penalty == 1e-4
