"""A path of weights from the input to every output, so that removing single weights never cuts a network in two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import ChannelLabels, Role

Place = tuple[int, ...]


def path_weights(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """At least one weight of every matrix in ``scores``, by matrix, true where it must stay.

    From the last matrix to the first: its best weight, then the best weight of those that produce what that one
    consumes, and so on to the input; of several in one matrix, in columns that a path has come through already, so that
    few have to stay. Matrices that a path has come through need no weight beside. Where several channels of one class
    are coupled, the path stays at the same place among them: in the same group of a grouped convolution, at the same
    position within a head, through the queries, the keys and the values of a matrix that makes all three. Where the
    trace lost the channels (in an operation that it does not understand) the path is lost too.
    A row that is divided by its norm (in weight normalization) keeps its best weight: one of zeros would be 0 / 0.
    """
    rows = {s.tensor: s for s in graph.axes if Role.ROW in s.role and s.tensor in scores}
    columns: dict[str, list[TensorAxis]] = {}
    for s in graph.axes:
        if Role.COLUMN in s.role and s.tensor in scores:
            columns.setdefault(s.tensor, []).append(s)
    makers: dict[int, list[tuple[str, ChannelLabels]]] = {}
    for name, row in rows.items():
        for channel, made in _by_class(row).items():
            makers.setdefault(channel, []).append((name, made))
    readers = {id(s): _by_class(s) for several in (*columns.values(), rows.values()) for s in several}
    kept = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in scores.items()}
    used: dict[str, set[int]] = {}
    seen: set[tuple[str, int, bytes]] = set()
    for last in reversed(list(scores)):
        if bool(kept[last].any()):
            continue
        todo = [(last, _best_index(scores[last], {}))]
        while todo:
            name, where = todo.pop()
            kept[name][where] = True
            own = rows.get(name)
            for slot in columns.get(name, [] if own is None else [own]):  # a depthwise convolution hands its own on
                channel = int(slot.classes[where[slot.dim]])
                for producer, made in makers.get(channel, []):
                    made, whole = _producing_rows(made, readers[id(slot)][channel], slot, own, where)
                    key = producer, channel, made.tobytes()
                    if producer == name or key in seen:
                        continue
                    seen.add(key)
                    row, allowed = rows[producer], {rows[producer].dim: made}
                    for column in columns.get(producer, [])[:1]:
                        if producer in used:
                            allowed[column.dim] = np.array(sorted(used[producer]))
                    best = _best_index(scores[producer], allowed)
                    for column in columns.get(producer, [])[:1]:
                        used.setdefault(producer, set()).add(best[column.dim])
                    todo.append((producer, best))
                    for i in made if whole else ():
                        kept[producer][(*best[: row.dim], i, *best[row.dim + 1 :])] = True
    for slot in graph.axes:
        if Role.DIRECTION in slot.role and slot.tensor in scores:
            by_row = scores[slot.tensor].movedim(slot.dim, 0)
            places = torch.unravel_index(by_row.flatten(1).argmax(1), by_row.shape[1:])
            every = torch.arange(len(by_row), device=by_row.device)
            kept[slot.tensor].movedim(slot.dim, 0)[(every, *places)] = True
    return kept


def _by_class(slot: TensorAxis) -> dict[int, ChannelLabels]:
    """The indices of each class."""
    order = np.argsort(slot.classes, kind="stable")
    classes, starts = np.unique(slot.classes[order], return_index=True)
    return dict(zip(classes.tolist(), np.split(order, starts[1:]), strict=True))


def _producing_rows(
    made: ChannelLabels, read: ChannelLabels, column: TensorAxis, own: TensorAxis | None, where: Place
) -> tuple[ChannelLabels, bool]:
    """Of the rows ``made`` of a producer, those that make what the consumer's weight at ``where`` reads, of which the
    best one has to stay; and whether all of them have to, in the column of the best one.

    ``read``: the consumer's columns of the same class; ``column``, ``own``: all its columns, and its rows.
    """
    place = int(np.searchsorted(read, where[column.dim]))
    if read.size % made.size == 0:  # several are read of each: it was flattened, channels before positions or after
        found = np.unique([place * made.size // read.size, place % made.size])
        return (made[found], True) if read.size > made.size > 1 else (made[found[:1]], False)
    if made.size % read.size == 0:
        several = made.size // read.size
        if own is not None and own is not column and len(where) > 2:
            place += where[own.dim] * several // own.classes.size * read.size  # a convolution's group reads its own
            return made[[place]], False
        parts = made.reshape(several, read.size)
        if read.size > 1 and (np.diff(parts) == 1).all():  # a head's queries, keys and values
            return parts[:, place], True  # a recurrent unit's gates lie apart: there, one will do
    return made, False


def _best_index(score: Tensor, allowed: Mapping[int, ChannelLabels]) -> Place:
    """Where the largest score is, at the allowed indices of each dimension; of equals the last: lower ones go first."""
    for dim, indices in allowed.items():
        score = score.index_select(dim, torch.from_numpy(indices).to(score.device))
    best = (score == score.max()).nonzero()[-1].tolist()
    return tuple(int(allowed[dim][i]) if dim in allowed else i for dim, i in enumerate(best))
