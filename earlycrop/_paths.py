"""A path of weights from the input to every output, so that removing single weights never cuts a network in two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from earlycrop._fields import Field
from earlycrop._watch import Role
from earlycrop.graph import Graph, Slot

Place = tuple[int, ...]


def path_weights(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """At least one weight of every matrix in ``scores``, by matrix, true where it must stay.

    From the last matrix to the first: its best weight, then the best weight of those that produce what that one
    consumes, and so on to the input. Matrices that a path has come through need no weight beside. Where several
    channels of one class are coupled, the path stays at the same place among them: in the same group of a grouped
    convolution, at the same position within a head, through the queries, the keys and the values of a matrix that makes
    all three. Where the trace lost the channels (in an operation that it does not understand) the path is lost too.
    A row that is divided by its norm (in weight normalization) keeps its best weight: one of zeros would be 0 / 0.
    """
    rows = {s.tensor: s for s in graph.slots if Role.ROW in s.role and s.tensor in scores}
    columns: dict[str, list[Slot]] = {}
    for s in graph.slots:
        if Role.COLUMN in s.role and s.tensor in scores:
            columns.setdefault(s.tensor, []).append(s)
    kept = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in scores.items()}
    seen: set[tuple[str, int, int]] = set()
    for last in reversed(list(scores)):
        if bool(kept[last].any()):
            continue
        todo = [(last, _best(scores[last]))]
        while todo:
            name, where = todo.pop()
            kept[name][where] = True
            own = rows.get(name)
            for slot in columns.get(name, [] if own is None else [own]):  # a depthwise convolution hands its own on
                for producer, row in rows.items():
                    made, place, whole = _producing(row, slot, own, where)
                    key = producer, int(slot.classes[where[slot.dim]]), place
                    if not made.size or producer == name or key in seen:
                        continue
                    seen.add(key)
                    best = _best(scores[producer], row, made)
                    todo.append((producer, best))
                    for i in made if whole else ():
                        kept[producer][(*best[: row.dim], i, *best[row.dim + 1 :])] = True
    for slot in graph.slots:
        if Role.DIRECTION in slot.role and slot.tensor in scores:
            by_row = scores[slot.tensor].movedim(slot.dim, 0)
            places = torch.unravel_index(by_row.flatten(1).argmax(1), by_row.shape[1:])
            every = torch.arange(len(by_row), device=by_row.device)
            kept[slot.tensor].movedim(slot.dim, 0)[(every, *places)] = True
    return kept


def _producing(row: Slot, column: Slot, own: Slot | None, where: Place) -> tuple[Field, int, bool]:
    """The producer's rows that make what the consumer's weight at ``where`` reads, of which the best one has to stay.
    And their place among the coupled channels, -1 if any of them does; and whether all of them have to, in the column
    of the best one.

    ``row``: the producer's rows; ``column``, ``own``: the consumer's columns and rows.
    """
    channel = column.classes[where[column.dim]]
    made, read = (np.flatnonzero(s.classes == channel) for s in (row, column))
    if not made.size:
        return made, -1, False
    place = int(np.searchsorted(read, where[column.dim]))
    if read.size % made.size == 0:  # several are read of each: it was flattened
        return made[[place * made.size // read.size]], place, False
    if made.size % read.size == 0:
        several = made.size // read.size
        if own is not None and own is not column and len(where) > 2:
            place += where[own.dim] * several // own.classes.size * read.size  # a convolution's group reads its own
            return made[[place]], place, False
        parts = made.reshape(several, read.size)
        if read.size > 1 and (np.diff(parts) == 1).all():  # a head's queries, keys and values
            return parts[:, place], place, True  # a recurrent unit's gates lie apart: there, one will do
    return made, -1, False


def _best(score: Tensor, slot: Slot | None = None, rows: Field | None = None) -> Place:
    """Where the largest score is, in some rows if asked; of equals the last: lower indices go first."""
    if slot is not None and rows is not None:
        others = torch.ones(score.shape[slot.dim], dtype=torch.bool, device=score.device)
        others[torch.from_numpy(rows).to(score.device)] = False
        score = score.masked_fill(others.reshape([-1 if d == slot.dim else 1 for d in range(score.ndim)]), -torch.inf)
    return tuple((score == score.max()).nonzero()[-1].tolist())
