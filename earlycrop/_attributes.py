"""Sizes in attributes of a user's own modules (a number of heads, the width of a split): found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from earlycrop.graph import Follow, Graph

if TYPE_CHECKING:
    from earlycrop._trial import Fault, Trials

MOST = 4
"""How many attributes may follow one group."""


def mended(
    graph: Graph, trials: Trials, ids: tuple[int, ...], home: str, follows: tuple[Follow, ...]
) -> tuple[Follow, ...] | None:
    """The attributes that have to follow the nodes ``ids``, so that a trial cut of them has no fault; None: there are
    none.

    One at a time: each that is taken brings the run past the operation where it failed.
    """
    remove = [ids[len(ids) // 2]]
    chosen: tuple[Follow, ...] = ()
    faults = trials.faults(graph, remove, ids, home, follows)
    while faults and len(chosen) < MOST:
        first = min(faults, key=lambda f: f.at)
        best: tuple[float, Follow, list[Fault]] = (first.at, Follow("", "", 0, "", 0), faults)
        for follow in _candidates(graph, trials, first.path, remove, follows + chosen):
            got = trials.faults(graph, remove, ids, home, (*follows, *chosen, follow))
            reached = min((f.at for f in got), default=inf)
            best = max(best, (reached, follow, got), key=lambda found: found[0])
            if not got:
                break
        if best[0] == first.at:
            return None
        chosen, faults = (*chosen, best[1]), best[2]
    rest = list(ids[(len(ids) + 1) // 2 :])
    return chosen if chosen and not trials.faults(graph, rest, ids, home, follows + chosen) else None


def _candidates(
    graph: Graph, trials: Trials, path: tuple[str, ...], remove: list[int], known: tuple[Follow, ...]
) -> Iterator[Follow]:
    """Integer attributes of the modules in ``path``, innermost first, that can go in proportion with what is removed.

    Nearest to the dimension's own width first: that, then its divisors and multiples.
    """
    removed = graph.mask(remove)
    cut = [
        (s, s.nodes.size, int((s.nodes >= 0).sum() and removed[s.nodes[s.nodes >= 0]].sum()))
        for s in graph.slots
        if (s.nodes >= 0).any() and removed[s.nodes[s.nodes >= 0]].any()
    ]
    taken = {(f.module, f.attribute) for f in (*graph.follows, *known)}
    for name in reversed(path):
        for attribute, value in list(vars(trials.copied.get_submodule(name)).items()):
            if type(value) is not int or value < 2 or (name, attribute) in taken:
                continue
            fitting = [
                (max(value, n) // min(value, n), s)
                for s, n, gone in cut
                if (value % n == 0 or n % value == 0) and value * gone % n == 0 and gone < n
            ]
            seen = set()
            for _, s in sorted(fitting, key=lambda pair: pair[0]):
                share = next(gone * value // n for t, n, gone in cut if t is s)
                if share not in seen:
                    seen.add(share)
                    yield Follow(name, attribute, value, s.tensor, s.dim)
