"""Classes of coupled channels: what the joins of a run say together, where something was shared, and what must stay a
rectangle.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from earlycrop._fields import Field, support
from earlycrop._watch import Watch, few


def classified(watch: Watch) -> Field:
    """For each channel number, which class of coupled channels it belongs to; adds joins and freezes on the way."""
    classes = np.arange(watch.count)
    solved = 0
    while True:
        classes = _connected(classes, watch.joins[solved:])
        solved = len(watch.joins)
        if _told_apart(watch, classes):
            continue
        if not sum(_straightened(watch, classes, f) for f in watch.rectangles):
            return classes


def multiplicity(watch: Watch, classes: Field) -> Field:
    """For each class, how many channels of it were treated as different ones in one place."""
    most = np.ones(classes.max(initial=-1) + 1, np.int64)
    for part in watch.parts:
        which, times = np.unique(classes[part], return_counts=True)
        most[which] = np.maximum(most[which], times)
    return most


def _told_apart(watch: Watch, classes: Field) -> bool:
    """Decide what is shared where that is clear, or else the first of it; whether something was joined.

    First of all that have a class in common: what happens to one does not change another that has none.
    """
    pending, joined = [], False
    met = np.zeros(classes.max(initial=-1) + 1, bool)
    for small, large, reason in watch.shared:
        now = classes[large]
        if all((now == now.take([0], axis=d)).all() for d in support(small)):
            watch.freezes.append((few(small), reason))
            continue
        if met[now].any() or met[classes[small]].any():
            pending.append((small, large, reason))
        else:
            watch.join(small, large)
            joined = True
        met[now] = met[classes[small]] = True
    watch.shared = pending
    return joined


def _connected(classes: Field, joins: list[tuple[Field, Field]]) -> Field:
    """The classes after these joins of channels."""
    a, b = (np.concatenate([np.zeros(0, np.int64), *(j[i] for j in joins)]) for i in (0, 1))
    count = classes.max(initial=-1) + 1
    graph = coo_array((np.ones(a.size, np.int8), (classes[a], classes[b])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)[classes]


def _straightened(watch: Watch, classes: Field, field: Field) -> bool:
    """Where the classes vary along several dimensions of a field, couple along all but the longest; whether it did.

    After a cut the tensor must still be a rectangle.
    """
    now = classes[field]
    varying = [d for d in support(now) if not (now == now.take([0], axis=d)).all()]
    if len(varying) < 2:
        return False
    longest = max(varying, key=lambda d: now.shape[d])
    base = field
    for d in varying:
        if d != longest:
            base = base.take([0], axis=d)
    watch.join(field, base)
    return True
