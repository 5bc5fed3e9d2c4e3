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


SCORES: tuple[tuple[str, ...], ...] = (
    (),
    ("--gate", "columns"),
    ("--criterion", "crop-flow"),
    ("--criterion", "crop-flow", "--gate", "columns"),
    ("--criterion", "crop-gate"),
    ("--criterion", "crop-gate", "--gate", "columns"),
    ("--criterion", "snip"),
    ("--criterion", "snip", "--gate", "columns"),
    ("--shuffled",),
)
"""The structured forms of earlycrop's score, and their control."""
NORMS: tuple[tuple[str, ...], ...] = (
    ("--statistics", "batch"),
    ("--gate", "columns", "--statistics", "running"),
    ("--gate", "norms"),
    ("--gate", "norms", "--statistics", "running"),
)
"""Those that only a network with batch norms has."""
AFTER: tuple[tuple[str, ...], ...] = (
    ("--optimizer-state", "reset"),
    ("--schedule", "restart"),
    ("--optimizer-state", "reset", "--schedule", "restart"),
)
"""What may become of optimizer and schedule after a cut, beside going on."""
SMALL = {
    "cartpole": ("--sparsity", "0.98"),
    "cifar10": ("--preset", "small"),
    "ptb": ("--preset", "tiny"),
}
"""A setting of each task in which a network of one CPU core's size is cut so far that it shows."""


def scores(seeds: int) -> Iterator[Run]:
    """Which form of the structured score keeps the most, and what best becomes of optimizer and schedule."""
    for seed, (task, setting) in product(range(seeds), SMALL.items()):
        common = (*setting, "--seed", str(seed))
        yield Run(task, (*common, "--method", "dense"))
        yield Run(task, (*common, "--method", "random-s"))
        for variant in (*SCORES, *AFTER, *(NORMS if task == "cifar10" else ())):
            yield Run(task, (*common, "--method", "earlycrop-s", *variant))


STUDIES: dict[str, Callable[[int], Iterator[Run]]] = {"fig4": fig4, "scores": scores}
"""Name -> study."""
