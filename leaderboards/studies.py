"""Studies: which runs a table or a figure is made of. A study is a function of the number of seeds that yields runs.

Seeds come outermost, so that a sweep that is stopped has all methods of the seeds that it got to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Run:
    """A task's name, and the arguments of ``python -m tasks.NAME``."""

    task: str
    arguments: tuple[str, ...]


CONTROL = ("cartpole", "acrobot", "lunarlander")
CONTROL_METHODS = (*("random-s", "random-u", "earlycrop-s", "earlycrop-u", "crop-s", "crop-u", "snip", "snap", "ltr"),)
CONTROL_SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)


def fig4(seeds: int) -> Iterator[Run]:
    """The paper's figures 4 and 7: return against sparsity on the control tasks."""
    for seed, task in product(range(seeds), CONTROL):
        yield Run(task, ("--method", "dense", "--seed", str(seed)))
        for sparsity, method in product(CONTROL_SPARSITIES, CONTROL_METHODS):
            yield Run(task, ("--method", method, "--sparsity", str(sparsity), "--seed", str(seed)))


STUDIES: dict[str, Callable[[int], Iterator[Run]]] = {"fig4": fig4}
"""Name -> study."""
