"""Random control: each layer loses as many units as by the scores, drawn at random."""

from __future__ import annotations

import pytest
import torch

from tests.toy import data, network, started


@pytest.mark.parametrize("method", ["snip", "snap", "cropit-u", "cropit-s"])
def test_the_shuffled_control_keeps_each_layers_count_and_not_the_choice(method: str) -> None:
    counts, kept = [], []
    for shuffled in (False, True):
        model, _, pruner = started(method, 0.6, shuffled=shuffled, rounds=2 if method == "snip" else 1)
        before = {v for p in network().parameters() for v in p.flatten().tolist()} | {0.0}
        torch.manual_seed(5)
        event = pruner.step(data())
        assert event is not None
        counts.append(event.layers)
        assert (event.notes != ()) == shuffled
        kept.append([p.detach().flatten().tolist() for p in model.parameters()])
        assert {v for values in kept[-1] for v in values} <= before, "what is kept is as it was"
    assert counts[0] == counts[1]
    assert kept[0] != kept[1]
