"""Paths of weights from the input to every output, so that pruning single weights never disconnects a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import ChannelLabels, Role

Index = tuple[int, ...]
"""The place of a weight in its matrix."""


def path_weights(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Choose weights that must stay so that every matrix is connected to the input and to an output.

    From the last matrix to the first, a path starts at the best weight of each matrix that no path has reached. It goes
    on with the best weight among those that produce what this weight consumes, and so on to the input. It prefers
    columns of a matrix that another path uses, so that few weights have to stay. If several channels of a class are
    coupled, the path stays at the same position among them: in the same group of a grouped convolution, at the same
    position within an attention head, in the queries, keys and values of one matrix. It ends at an operation that the
    trace does not understand. Each row that is divided by its norm (weight normalization) also keeps its best weight,
    because a row of zeros would be 0 / 0.

    Args:
        graph: The network's graph.
        scores: The scores of the weights, by matrix.

    Returns:
        By matrix, true where a weight must stay. At least one weight of every matrix is true.
    """
    finder = _PathFinder(graph, scores)
    for name in reversed(list(scores)):
        if not bool(finder.kept[name].any()):
            finder.add_path(name)
    _keep_nonzero_rows(graph, scores, finder.kept)
    return finder.kept


class _PathFinder:
    """Goes from the weights that consume a channel to those that produce it, and marks them in ``kept``."""

    def __init__(self, graph: Graph, scores: Mapping[str, Tensor]) -> None:
        self.scores = scores
        self.kept = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in scores.items()}
        axes = [axis for axis in graph.axes if axis.tensor in scores]
        self._rows = {axis.tensor: axis for axis in axes if Role.ROW in axis.role}
        self._columns: dict[str, list[TensorAxis]] = {name: [] for name in scores}
        for axis in axes:
            if Role.COLUMN in axis.role:
                self._columns[axis.tensor].append(axis)
        self._producers: dict[int, list[str]] = {}
        """By class of channels, the matrices whose rows produce them."""
        for name, row in self._rows.items():
            for label in row.indices_by_class:
                self._producers.setdefault(label, []).append(name)
        self._used_columns: dict[str, set[int]] = {}
        self._visited: set[tuple[str, int, bytes]] = set()

    def add_path(self, name: str) -> None:
        """Mark the best weight of a matrix, and the path from the input to it."""
        pending = [(name, _best_index(self.scores[name], {}))]
        while pending:
            consumer, index = pending.pop()
            self.kept[consumer][index] = True
            row = self._rows.get(consumer)
            # a depthwise convolution has no columns: its channels are those that it consumes
            for axis in self._columns[consumer] or ([] if row is None else [row]):
                pending += self._keep_producers(consumer, index, axis)

    def _keep_producers(self, consumer: str, index: Index, axis: TensorAxis) -> list[tuple[str, Index]]:
        """Return the best weight of each producer of what the weight at ``index`` consumes along ``axis``."""
        label = int(axis.classes[index[axis.dim]])
        weights = []
        for producer in self._producers.get(label, []):
            row = self._rows[producer]
            rows, keep_all = _find_producing_rows(
                row.indices_by_class[label], axis.indices_by_class[label], axis, self._rows.get(consumer), index
            )
            key = producer, label, rows.tobytes()
            if producer == consumer or key in self._visited:
                continue
            self._visited.add(key)
            best = self._best_weight(producer, rows)
            weights.append((producer, best))
            for i in rows if keep_all else ():
                self.kept[producer][(*best[: row.dim], i, *best[row.dim + 1 :])] = True
        return weights

    def _best_weight(self, name: str, rows: ChannelLabels) -> Index:
        """Return the best weight in these rows, in columns that other paths use if there are any."""
        candidates = {self._rows[name].dim: rows}
        if not self._columns[name]:
            return _best_index(self.scores[name], candidates)
        column, used = self._columns[name][0], self._used_columns.setdefault(name, set())
        if used:
            candidates[column.dim] = np.array(sorted(used))
        best = _best_index(self.scores[name], candidates)
        used.add(best[column.dim])
        return best


def _find_producing_rows(
    produced: ChannelLabels, consumed: ChannelLabels, axis: TensorAxis, row: TensorAxis | None, index: Index
) -> tuple[ChannelLabels, bool]:
    """Find the rows of a producer that make what the consumer's weight at ``index`` reads.

    ``produced`` are the producer's rows, and ``consumed`` the consumer's indices along ``axis``, of one class; ``row``
    is the consumer's axis of rows. Returns the rows, and whether all of them have to stay, or only the best one.
    """
    position = int(np.searchsorted(consumed, index[axis.dim]))
    if consumed.size % produced.size == 0:  # it was flattened, with the channels before the positions or after them
        rows = np.unique([position * produced.size // consumed.size, position % produced.size])
        return (produced[rows], True) if consumed.size > produced.size > 1 else (produced[rows[:1]], False)
    if produced.size % consumed.size == 0:
        times = produced.size // consumed.size
        if row is not None and row is not axis and len(index) > 2:  # a group of a convolution reads its own channels
            position += index[row.dim] * times // row.classes.size * consumed.size
            return produced[[position]], False
        parts = produced.reshape(times, consumed.size)
        if consumed.size > 1 and (np.diff(parts) == 1).all():  # the queries, keys and values of a head
            return parts[:, position], True
    return produced, False  # of the gates of a recurrent unit, one is enough


def _keep_nonzero_rows(graph: Graph, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Mark the best weight of each row that is divided by its norm."""
    for axis in graph.axes:
        if Role.DIRECTION in axis.role and axis.tensor in scores:
            by_row = scores[axis.tensor].movedim(axis.dim, 0)
            best = torch.unravel_index(by_row.flatten(1).argmax(1), by_row.shape[1:])
            rows = torch.arange(len(by_row), device=by_row.device)
            kept[axis.tensor].movedim(axis.dim, 0)[(rows, *best)] = True


def _best_index(score: Tensor, candidates: Mapping[int, ChannelLabels]) -> Index:
    """Find the largest score at the given indices of each dimension; of equal ones the last, which is removed last."""
    for dim, indices in candidates.items():
        score = score.index_select(dim, torch.from_numpy(indices).to(score.device))
    best = (score == score.max()).nonzero()[-1].tolist()
    return tuple(int(candidates[dim][i]) if dim in candidates else i for dim, i in enumerate(best))
