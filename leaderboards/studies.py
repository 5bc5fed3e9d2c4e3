"""Studies: which runs a table or a figure is made of. A study is a function of the number of seeds that yields runs.

Seeds come outermost, so that a sweep that is stopped has all methods of the seeds that it got to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, product


@dataclass(frozen=True)
class Run:
    """A task's name, the arguments of ``python -m tasks.NAME``, and those of the dense run that it may branch off."""

    task: str
    arguments: tuple[str, ...]
    trunk: tuple[str, ...] | None = None
    data: str = ""
    """Folder of its data among those of all tasks, where that is not called as the task."""


CONTROL = ("cartpole", "acrobot", "lunarlander")
CONTROL_METHODS = (*("random-s", "random-u", "earlycrop-s", "earlycrop-u", "crop-s", "crop-u", "snip", "snap", "ltr"),)
CONTROL_SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)


def control(*names: str) -> Callable[[int], Iterator[Run]]:
    """A study of return against sparsity on control tasks."""

    def runs(seeds: int) -> Iterator[Run]:
        for seed, task in product(range(seeds), names):
            yield Run(task, ("--method", "dense", "--seed", str(seed)))
            for sparsity, method in product(CONTROL_SPARSITIES, CONTROL_METHODS):
                yield Run(task, ("--method", method, "--sparsity", str(sparsity), "--seed", str(seed)))

    return runs


def critic(seeds: int) -> Iterator[Run]:
    """Single weights of actor and critic, scored by the training loss, or by one with less of the critic's error."""
    for seed, task in product(range(seeds), CONTROL[:2]):
        common = ("--seed", str(seed), "--method")
        yield Run(task, (*common, "dense"))
        for sparsity in ("0.9", "0.95"):
            yield Run(task, (*common, "random-u", "--sparsity", sparsity))
            for variant in ((), ("--scoring-value", "0.0025")):
                yield Run(task, (*common, "earlycrop-u", "--sparsity", sparsity, *variant))


ROWS = ("--gate", "rows")
SCORES: tuple[tuple[str, ...], ...] = (
    (),
    ROWS,
    ("--criterion", "crop-flow"),
    ("--criterion", "crop-flow", *ROWS),
    ("--criterion", "crop-gate"),
    ("--criterion", "crop-gate", *ROWS),
    ("--criterion", "snip"),
    ("--criterion", "snip", *ROWS),
    ("--shuffled", *ROWS),
)
"""The structured forms of earlycrop's score, and their control."""
NORMS: tuple[tuple[str, ...], ...] = (
    ("--statistics", "batch", *ROWS),
    ("--statistics", "running"),
    ("--gate", "norms"),
    ("--gate", "norms", "--statistics", "running"),
)
"""Those that only a network with batch norms has."""
AFTER: tuple[tuple[str, ...], ...] = (
    ("--optimizer-state", "reset", *ROWS),
    ("--schedule", "restart", *ROWS),
    ("--optimizer-state", "reset", "--schedule", "restart", *ROWS),
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


NODES = ("random-s", "snap", "crop-s", "cropit-s", "earlybird", "earlycrop-s", "gatedecorators", "efficientconvnets")
WEIGHTS = ("random-u", "snip", "grasp", "crop-u", "cropit-u", "earlycrop-u", "ltr")
"""The methods of the paper's tables 1, 2, 5 and 6, in their order."""


def compared(
    task: str,
    setting: tuple[str, ...],
    sparsities: tuple[float, ...],
    methods: tuple[str, ...] = (*NODES, *WEIGHTS),
    data: str = "",
) -> Callable[[int], Iterator[Run]]:
    """A study of one setting: dense, and each method at each sparsity."""

    def runs(seeds: int) -> Iterator[Run]:
        for seed in range(seeds):
            common = (*setting, "--seed", str(seed))
            yield Run(task, (*common, "--method", "dense"), data=data)
            for sparsity, method in product(sparsities, methods):
                yield Run(task, (*common, "--method", method, "--sparsity", str(sparsity)), data=data)

    return runs


def several(*studies: Callable[[int], Iterator[Run]]) -> Callable[[int], Iterator[Run]]:
    """Studies side by side."""
    return lambda seeds: chain.from_iterable(study(seeds) for study in studies)


RESNET18 = ("--preset", "paper-table1")
VGG16 = ("--preset", "paper-table1", "--network", "vgg16", "--decay", "none")
"""The paper's one cycle is for all networks but this one."""
POINTS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Epochs of 80 after which a copy is pruned."""


def table3(seeds: int) -> Iterator[Run]:
    """The paper's table 3: a network too large for its device, cut on the CPU, beside a dense one of the size left."""
    for seed in range(seeds):
        common = ("--preset", "paper-table1", "--seed", str(seed))
        for network in ("resnext101_32x48d", "resnext101_32x16d"):
            yield Run("cifar10", (*common, "--network", network, "--epochs", "30", "--method", "dense"))
        for epochs in ("30", "80"):
            small = ("--network", "resnext101_32x48d", "--epochs", epochs, "--prune-on", "cpu", "--scoring", "1")
            yield Run("cifar10", (*common, *small, "--method", "crop-s", "--sparsity", "0.985"))


def points(
    setting: tuple[str, ...], sparsities: tuple[float, ...], epochs: tuple[int, ...]
) -> Callable[[int], Iterator[Run]]:
    """A study of when to prune: earlycrop-s at each of the given epochs, beside its own trigger and dense.

    The dense run is trained once, and the copies that are pruned at the epochs branch off it.
    """

    def runs(seeds: int) -> Iterator[Run]:
        for seed, sparsity in product(range(seeds), sparsities):
            common = (*setting, "--seed", str(seed))
            dense = (*common, "--method", "dense", "--keep", *(str(epoch) for epoch in epochs if epoch))
            if sparsity == sparsities[0]:
                yield Run("cifar10", dense)
            pruned = (*common, "--method", "earlycrop-s", "--sparsity", str(sparsity))
            yield Run("cifar10", pruned)
            for epoch in epochs:
                yield Run("cifar10", (*pruned, "--trigger", str(epoch)), dense if epoch else None)

    return runs


TABLE8 = {
    "mnli": 0.7, "qqp": 0.9, "stsb": 0.5, "wnli": 0.9, "qnli": 0.7, "rte": 0.6, "sst2": 0.6, "cola": 0.5,
}  # fmt: skip
"""Task of GLUE -> sparsity. It is that of Chen et al. 2020, which their code counts over encoder and pooler alone."""
BERT, MINILM = 0.782, 0.4746
"""The share of all matrices' entries that are no embeddings: of BERT base, and of MiniLM with 6 layers of 384."""
HALF = (*("--of", "nodes", "--sparsity", "0.3", "--ceilings"), *("*.query", "0.5", "*.intermediate.dense", "0.5"))
"""Half of the heads and half of the feed-forward neurons of every layer of MiniLM: 30.3 % of its nodes."""


def table8(seeds: int) -> Iterator[Run]:
    """The paper's table 8: BERT base on GLUE, with lottery tickets rewound to the start and to half of the training."""
    for seed, (name, share) in product(range(seeds), TABLE8.items()):
        common = ("--task-name", name, "--seed", str(seed))
        yield Run("glue", (*common, "--method", "dense"))
        pruned = (*common, "--sparsity", f"{share * BERT:.4g}")
        yield Run("glue", (*pruned, "--method", "earlycrop-u"))
        for rewind in ("0", "0.5"):
            yield Run("glue", (*pruned, "--method", "ltr", "--rewind", rewind))


def minilm(seeds: int) -> Iterator[Run]:
    """A small BERT on four tasks of GLUE: 70 % of its weights without the embeddings, or half of heads and neurons."""
    weights = ("--sparsity", f"{0.7 * MINILM:.4g}")
    for seed, name in product(range(seeds), ("rte", "mrpc", "stsb", "cola")):
        common = ("--preset", "small", "--task-name", name, "--seed", str(seed), "--method")
        yield Run("glue", (*common, "dense"))
        for method, setting in product(("earlycrop", "magnitude"), (weights, HALF)):
            yield Run("glue", (*common, f"{method}-{'u' if setting is weights else 's'}", *setting))


TABLE5 = compared("cifar100", ("--preset", "paper"), (0.98,))
"""The paper's figure 1 draws its accuracies against its costs."""

STUDIES: dict[str, Callable[[int], Iterator[Run]]] = {
    "table1": compared("cifar10", RESNET18, (0.95,)),
    "table2": compared("cifar10", VGG16, (0.98,)),
    "table3": table3,
    "table5": TABLE5,
    "table6": compared("tinyimagenet", ("--preset", "paper"), (0.9,)),
    "table7": compared("imagenet", ("--preset", "paper"), (0.5,), ("earlycrop-s",)),
    "table8": table8,
    "fig1": TABLE5,
    "fig2": points((*RESNET18, "--network", "resnet50"), (0.98,), POINTS),
    "fig3": several(
        compared("cifar10", RESNET18, (0.75, 0.9, 0.95, 0.98, 0.99, 0.995)),
        compared("tinyimagenet", ("--preset", "paper"), (0.75, 0.9, 0.95, 0.98)),
        compared("cifar10", VGG16, (0.75, 0.9, 0.95, 0.98, 0.99, 0.995)),
        compared("cifar100", ("--preset", "paper"), (0.75, 0.9, 0.95, 0.98, 0.99)),
    ),
    "fig4": control(*CONTROL),
    "fig5": compared(
        "nyu", ("--preset", "paper"), (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999), ("earlycrop-s", *WEIGHTS)
    ),
    "fig6": compared(
        "ptb", ("--preset", "paper"), (0.5, 0.75, 0.89, 0.95),
        ("random-s", "crop-s", "earlycrop-s", "random-u", "snip", "crop-u", "earlycrop-u", "magnitude-after-u", "ltr"),
    ),
    "fig7": control(*CONTROL[1:]),
    "fig8": points(RESNET18, (0.8, 0.98, 0.995), POINTS),
    "critic": critic,
    "kitchen": compared(
        "nyu", ("--preset", "small"), (0.9, 0.99),
        ("earlycrop-s", "earlycrop-u", "crop-s", "snip", "grasp", "random-s", "random-u"), "rgbd",
    ),
    "minilm": minilm,
    "scores": scores,
    "smoke": compared(
        "cifar10", ("--preset", "smoke"), (0.9,), ("earlycrop-s", "crop-s", "random-s", "earlycrop-u", "snip")
    ),
    "treebank": compared(
        "ptb", ("--preset", "small"), (0.5, 0.8), ("earlycrop-s", "earlycrop-u", "magnitude-u", "magnitude-after-u")
    ),
    "when": points(("--preset", "small"), (0.9,), (0, 1, 2, 3, 4, 6, 8, 10)),
}  # fmt: skip
"""Name -> study. Tables and figures are the paper's; the others are ours, for a CPU."""
