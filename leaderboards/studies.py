"""Studies: which runs a table or a figure is made of. A study is a function of a seed that yields that seed's runs."""

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

    def branch(self) -> tuple[Run, int]:
        """Return the dense run that it branches off, and after which epoch."""
        assert self.trunk is not None
        return Run(self.task, self.trunk), int(self.arguments[self.arguments.index("--trigger") + 1])


Study = Callable[[int], Iterator[Run]]

NODES = ("random-s", "snap", "crop-s", "cropit-s", "earlybird", "earlycrop-s", "gatedecorators", "efficientconvnets")
WEIGHTS = ("random-u", "snip", "grasp", "crop-u", "cropit-u", "earlycrop-u", "ltr")
"""The methods of the paper's tables 1, 2, 5 and 6, in their order."""
Methods = tuple[str, ...]
Sparsities = tuple[float, ...]


def run_of(task: str, arguments: str, trunk: str | None = None, data: str = "") -> Run:
    """Return a run with its arguments in one string."""
    return Run(task, tuple(arguments.split()), None if trunk is None else tuple(trunk.split()), data)


def compared(
    task: str, setting: str, sparsities: Sparsities, methods: Methods = (*NODES, *WEIGHTS), data: str = ""
) -> Study:
    """Dense, and each method at each sparsity, in one setting of a task."""

    def runs(seed: int) -> Iterator[Run]:
        common = f"{setting} --seed {seed} --method"
        yield run_of(task, f"{common} dense", data=data)
        for sparsity, method in product(sparsities, methods):
            yield run_of(task, f"{common} {method} --sparsity {sparsity}", data=data)

    return runs


def several(*studies: Study) -> Study:
    """Studies side by side."""
    return lambda seed: chain.from_iterable(study(seed) for study in studies)


def control(*tasks: str) -> Study:
    """Return against sparsity on control tasks."""
    methods = ("random-s", "random-u", "earlycrop-s", "earlycrop-u", "crop-s", "crop-u", "snip", "snap", "ltr")
    return several(*(compared(task, "", (0.5, 0.75, 0.9, 0.95, 0.98, 0.99), methods) for task in tasks))


RAW = "--no-normalise-observations"
"""Observations as they are, as in the first studies of control tasks."""


def terms(seed: int) -> Iterator[Run]:
    """Single weights of actor and critic: scored by the flow of each term of the loss, or of their sum."""
    for task in ("cartpole", "acrobot"):
        yield run_of(task, f"{RAW} --seed {seed} --method dense")
        for sparsity, more in ((0.9, ""), (0.95, " --steps 1000000" if task == "cartpole" else "")):
            common = f"{RAW} --seed {seed} --sparsity {sparsity}{more} --method"
            yield run_of(task, f"{common} earlycrop-u")
            if sparsity == 0.9:
                yield run_of(task, f"{common} earlycrop-u --criterion crop-sum")
                for method in ("crop-u", "cropit-u", "snip", "random-u") if task == "cartpole" else ():
                    yield run_of(task, f"{common} {method}")


def observations(seed: int) -> Iterator[Run]:
    """The same with each task's own observations, which are normalised in cart-pole, up to 98 %."""
    methods = ("earlycrop-u --criterion crop-sum", "crop-u", "cropit-u", "snip", "random-u")
    few = ("snip", "random-u")
    acrobot: dict[float, tuple[str, ...]] = {0.9: (), 0.95: few}
    cartpole: dict[float, tuple[str, ...]] = {0.9: methods, 0.95: few, 0.98: methods}
    for task, others in (("acrobot", acrobot), ("cartpole", cartpole)):
        yield run_of(task, f"--seed {seed} --method dense")
        for sparsity, names in others.items():
            for method in ("earlycrop-u", *names):
                yield run_of(task, f"--seed {seed} --sparsity {sparsity} --method {method}")


def million(seed: int) -> Iterator[Run]:
    """Single weights of cart-pole's policy that trains for twice as many steps."""
    yield run_of("cartpole", f"--seed {seed} --sparsity 0.95 --method earlycrop-u --steps 1000000")


TUNING = 100
"""The first seed of studies by which defaults are chosen. No other study comes so far."""


def when_control(seed: int) -> Iterator[Run]:
    """When to prune cart-pole's policy: at an epoch of 30, or when the trigger says so; to choose the trigger by."""
    common = f"{RAW} --seed {TUNING + seed} --method"
    yield run_of("cartpole", f"{common} dense --schedule constant")
    for trigger in ("", *(f" --trigger {epoch}" for epoch in (0, 2, 4, 8))):
        yield run_of("cartpole", f"{common} earlycrop-u --sparsity 0.9{trigger}")


CRITERIA = ("", "--criterion crop-flow", "--criterion crop-gate", "--criterion snip")
SCORES = (
    *(f"{criterion} {gate}" for criterion, gate in product(CRITERIA, ("", "--gate rows"))),
    "--shuffled --gate rows",
)
"""The structured forms of earlycrop's score, and their control."""
AFTER = ("--optimizer-state reset", "--schedule restart", "--optimizer-state reset --schedule restart")
"""What may become of optimizer and schedule after a cut, beside going on."""
NORMS = (
    "--statistics batch --gate rows", "--statistics running", "--gate norms", "--gate norms --statistics running",
)  # fmt: skip
"""Forms of the score that only a network with batch norms has."""
SMALL = {
    "cartpole": f"{RAW} --sparsity 0.98", "cifar10": "--preset small --schedule keep", "ptb": "--preset tiny",
}  # fmt: skip
"""A setting of each task in which a network of one CPU core's size is cut so far that it shows."""


def scores(seed: int) -> Iterator[Run]:
    """Which form of the structured score keeps the most, and what best becomes of optimizer and schedule."""
    for task, setting in SMALL.items():
        common = f"{setting} --seed {seed} --method"
        yield run_of(task, f"{common} dense")
        yield run_of(task, f"{common} random-s")
        after = [f"{variant} --gate rows" for variant in AFTER]
        for variant in (*SCORES, *after, *(NORMS if task == "cifar10" else ())):
            yield run_of(task, f"{common} earlycrop-s {variant}")


RESNET18 = "--preset paper-table1"
VGG16 = "--preset paper-table1 --network vgg16 --decay none"
"""The paper's one cycle is for all networks but this one."""
POINTS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Epochs of 80 after which a copy is pruned."""


def table3(seed: int) -> Iterator[Run]:
    """The paper's table 3: a network too large for its device, cut on the CPU, beside a dense one of the size left."""
    common = f"--preset paper-table1 --seed {seed} --network"
    for network in ("resnext101_32x48d", "resnext101_32x16d"):
        yield run_of("cifar10", f"{common} {network} --epochs 30 --method dense")
    for epochs in (30, 80):
        pruned = "--prune-on cpu --scoring 1 --method crop-s --sparsity 0.985"
        yield run_of("cifar10", f"{common} resnext101_32x48d --epochs {epochs} {pruned}")


def points(
    setting: str, sparsities: Sparsities, epochs: tuple[int, ...], holds: bool = True, first_seed: int = 0
) -> Study:
    """When to prune: earlycrop-s at each of the given epochs, beside its own trigger and dense.

    What is pruned at the epochs branches off one dense run. Where the runs hold their learning rate until the pruning
    (``holds``), that dense run holds it to its end, and the one to compare with is another.
    """
    schedule = " --schedule after-cut" if holds else ""

    def runs(seed: int) -> Iterator[Run]:
        common = f"{setting} --seed {first_seed + seed} --method"
        keep = f" --keep {' '.join(str(epoch) for epoch in epochs if epoch)}"
        trunk = f"{common} dense{' --schedule constant' if holds else ''}{keep}"
        if holds:
            yield run_of("cifar10", f"{common} dense")
        yield run_of("cifar10", trunk)
        for sparsity in sparsities:
            pruned = f"{common} earlycrop-s --sparsity {sparsity}{schedule}"
            yield run_of("cifar10", pruned)
            for epoch in epochs:
                yield run_of("cifar10", f"{pruned} --trigger {epoch}", trunk if epoch else None)

    return runs


TABLE8 = {
    "mnli": 0.7, "qqp": 0.9, "stsb": 0.5, "wnli": 0.9, "qnli": 0.7, "rte": 0.6, "sst2": 0.6, "cola": 0.5,
}  # fmt: skip
"""Task of GLUE -> sparsity. It is that of Chen et al. 2020, which their code counts over encoder and pooler alone."""
MINILM = 0.4746
"""The share of all matrices' entries that are no embeddings: of MiniLM with 6 layers of 384."""
HALF = (*("--of", "nodes", "--sparsity", "0.3", "--ceilings"), *("*.query", "0.5", "*.intermediate.dense", "0.5"))
"""Half of the heads and half of the feed-forward neurons of every layer of MiniLM: 30.3 % of its nodes."""


def table8(seed: int) -> Iterator[Run]:
    """The paper's table 8: BERT base on GLUE, with lottery tickets rewound to the start and to half of the training."""
    for name, share in TABLE8.items():
        common = f"--task-name {name} --seed {seed} --method"
        yield run_of("glue", f"{common} dense")
        for method in ("earlycrop-u", "ltr --rewind 0", "ltr --rewind 0.5"):
            yield run_of("glue", f"{common} {method} --sparsity {share}")


def minilm(seed: int) -> Iterator[Run]:
    """A small BERT on four tasks of GLUE: 70 % of its weights without the embeddings, or half of heads and neurons."""
    for name in ("rte", "mrpc", "stsb", "cola"):
        common = f"--preset small --task-name {name} --seed {seed} --method"
        yield run_of("glue", f"{common} dense")
        for method in ("earlycrop", "magnitude"):
            yield run_of("glue", f"{common} {method}-u --sparsity {0.7 * MINILM:.4g} --include *embed*")
            yield run_of("glue", f"{common} {method}-s {' '.join(HALF)}")


TABLE5 = compared("cifar100", "--preset paper", (0.98,))
"""The paper's figure 1 draws its accuracies against its costs."""

HELD_OUT = "--preset small --images 10000 --validation 0.5"
"""The setting small with 5,000 images that validate, beside as many that train."""
SETTINGS = {
    "cifar10": f"{HELD_OUT} --sparsity 0.9", "digits": "--widths 16 32 64 --sparsity 0.95",
    "cartpole": "--sparsity 0.99",
}  # fmt: skip
"""A setting of each task in which methods that cut nodes end apart."""
FORMS = ("", " --gate rows", " --gate rows --statistics batch", " --statistics running")
"""Gates at columns or rows, with a batch's statistics or running ones; only networks with batch norms have all four."""


def defaults(seed: int) -> Iterator[Run]:
    """Which gates, statistics of batch norms, schedule and batches a structured pruning does best with."""
    for task, setting in SETTINGS.items():
        common = f"{setting} --seed {TUNING + seed} --method"
        yield run_of(task, f"{common} dense")
        yield run_of(task, f"{common} random-s --schedule keep")
        for form in FORMS if task != "cartpole" else FORMS[:2]:
            yield run_of(task, f"{common} earlycrop-s{form} --schedule after-cut")
        yield run_of(task, f"{common} earlycrop-s --schedule keep")
        yield run_of(task, f"{common} earlycrop-s --schedule after-cut --early-batches 0.4")


STUDIES: dict[str, Study] = {
    "table1": compared("cifar10", RESNET18, (0.95,)),
    "table2": compared("cifar10", VGG16, (0.98,)),
    "table3": table3,
    "table5": TABLE5,
    "table6": compared("tinyimagenet", "--preset paper", (0.9,)),
    "table7": compared("imagenet", "--preset paper", (0.5,), ("earlycrop-s",)),
    "table8": table8,
    "fig1": TABLE5,
    "fig2": points(f"{RESNET18} --network resnet50", (0.98,), POINTS),
    "fig3": several(
        compared("cifar10", RESNET18, (0.75, 0.9, 0.95, 0.98, 0.99, 0.995)),
        compared("tinyimagenet", "--preset paper", (0.75, 0.9, 0.95, 0.98)),
        compared("cifar10", VGG16, (0.75, 0.9, 0.95, 0.98, 0.99, 0.995)),
        compared("cifar100", "--preset paper", (0.75, 0.9, 0.95, 0.98, 0.99)),
    ),
    "fig4": control("cartpole", "acrobot", "lunarlander"),
    "fig5": compared(
        "nyu", "--preset paper", (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999), ("earlycrop-s", *WEIGHTS)
    ),
    "fig6": compared(
        "ptb", "--preset paper", (0.5, 0.75, 0.89, 0.95),
        ("random-s", "crop-s", "earlycrop-s", "random-u", "snip", "crop-u", "earlycrop-u", "magnitude-after-u", "ltr"),
    ),
    "fig7": control("acrobot", "lunarlander"),
    "fig8": points(RESNET18, (0.8, 0.98, 0.995), POINTS),
    "kitchen": compared(
        "nyu", "--preset small", (0.9, 0.99),
        ("earlycrop-s", "earlycrop-u", "crop-s", "snip", "grasp", "random-s", "random-u"), "rgbd",
    ),
    "minilm": minilm,
    "scores": scores,
    "defaults": defaults,
    "smoke": compared(
        "cifar10", "--preset smoke --schedule keep", (0.9,),
        ("earlycrop-s", "crop-s", "random-s", "earlycrop-u", "snip"),
    ),
    "treebank": compared(
        "ptb", "--preset small", (0.5, 0.8), ("earlycrop-s", "earlycrop-u", "magnitude-u", "magnitude-after-u")
    ),
    "observations": observations,
    "million": million,
    "terms": terms,
    "when": points("--preset small --schedule keep", (0.9,), (0, 1, 2, 3, 4, 6, 8, 10), holds=False),
    "when-control": when_control,
    "when-images": points(HELD_OUT, (0.9,), (0, 1, 2, 4, 6, 8, 10), first_seed=TUNING),
}  # fmt: skip
"""Name -> study. Tables and figures are the paper's; the others are ours, for a CPU."""
BY_VALIDATION = ("defaults", "when-images")
"""Studies whose tables have the metric of the validation data after the last epoch, where a task has such data."""
