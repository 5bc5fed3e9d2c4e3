"""A path of weights from the input to every output, so that removing single weights never cuts a network in two."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from earlycrop._watch import Role
from earlycrop.graph import Graph, Slot


def path_weights(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """At least one weight of every matrix in ``scores``, by matrix, true where it must stay.

    From the last matrix to the first: its best weight, then the best weight of those that produce what that one
    consumes, and so on to the input. Matrices that a path has come through need no weight beside. Channels that are
    coupled (in grouped convolutions, an LSTM's gates) count as one, and the path may change from one to another.
    A row that is divided by its norm (in weight normalization) keeps its best weight: one of zeros would be 0 / 0.
    """
    rows = {s.tensor: s for s in graph.slots if Role.ROW in s.role and s.tensor in scores}
    columns = {s.tensor: s for s in graph.slots if Role.COLUMN in s.role and s.tensor in scores}
    kept = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in scores.items()}
    seen: set[tuple[str, int]] = set()
    for last in reversed(list(scores)):
        if bool(kept[last].any()):
            continue
        todo = [(last, _best(scores[last]))]
        while todo:
            name, where = todo.pop()
            kept[name][where] = True
            slot = columns.get(name, rows.get(name))  # a depthwise convolution hands its own channel on
            if slot is None:
                continue
            channel = int(slot.classes[where[slot.dim]])
            for producer, row in rows.items():
                if (producer, channel) not in seen and (row.classes == channel).any() and producer != name:
                    seen.add((producer, channel))
                    todo.append((producer, _best(scores[producer], row, channel)))
    for slot in graph.slots:
        if Role.DIRECTION in slot.role and slot.tensor in scores:
            best = scores[slot.tensor].movedim(slot.dim, 0).flatten(1).argmax(1)
            by_row = kept[slot.tensor].movedim(slot.dim, 0)
            places = torch.unravel_index(best, by_row.shape[1:])
            by_row[(torch.arange(len(best), device=best.device), *places)] = True
    return kept


def _best(score: Tensor, slot: Slot | None = None, channel: int = -1) -> tuple[int, ...]:
    """Where the largest score is, in the rows of one channel if asked; of equals the last: lower indices go first."""
    if slot is not None:
        mine = torch.from_numpy(slot.classes == channel).to(score.device)
        shape = [-1 if d == slot.dim else 1 for d in range(score.ndim)]
        score = score.masked_fill(~mine.reshape(shape), -torch.inf)
    return tuple((score == score.max()).nonzero()[-1].tolist())
