"""Parse a task's command line, and show its help in groups: task, pruning, training and run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, make_dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from earlycrop import CRITERIA, METHODS, Method
from earlycrop.emissions import EmissionsMeter
from earlycrop.events import GateName
from earlycrop.scoring.criteria import Statistics
from earlycrop.selection.schedules import one_shot
from earlycrop.selection.targets import Measure
from earlycrop.triggers.triggers import before
from earlycrop.utils.validation import describe_unknown
from tasks.runner.errors import one_line_errors
from tasks.runner.options import Options, check_values

GROUPS = {
    "pruning": (
        *("method", "sparsity", "of", "rounds", "trigger", "criterion", "gate", "statistics", "as_authors", "exclude"),
        *("include", "floors", "ceilings", "multiple", "shuffled", "rewind", "scoring", "scoring_rollouts"),
        *("scoring_length", "early_batches", "prune_on"),
    ),
    "training": (
        *("epochs", "batch", "optimizer", "learning_rate", "decay", "weight_decay", "clip", "smoothing"),
        *("schedule", "optimizer_state"),
    ),
    "run": (
        *("preset", "seed", "device", "deterministic", "compile", "watch", "kernel", "keep", "branch_from", "country"),
        *("record", "fresh", "runs"),
    ),
}
"""Options by group. The others are the task's own."""
CHOICES: dict[str, Any] = {
    "method": Literal[tuple(METHODS)],
    "criterion": Literal[("", *CRITERIA)],
    "of": Measure,
    "gate": GateName,
    "statistics": Statistics,
}
"""Options that are plain strings in a configuration, and take a few values on the command line."""
TIMES = {
    "before": "before training",
    "after": "after training",
    "lazy_regime": "when training becomes lazy",
    "mask_distance": "when the choice settles",
}
"""Trigger of a method, by the name of its function -> when it prunes."""


def parse(module: Any, arguments: Sequence[str]) -> Options:
    """Return the options of a task: its preset's values, with the arguments in their place.

    Raises:
        ValueError: There is no such preset, or the task's module lacks something.
        SystemExit: Another argument cannot be parsed, or the help was asked for. The message is printed.
    """
    if missing := [name for name in ("Options", "PRESETS", "SUMMARY", "make") if not hasattr(module, name)]:
        raise ValueError(f"{module.__name__} has no {', '.join(missing)}: see tasks/_template.py")
    name = _find_value(arguments, "preset") or "default"
    if name not in module.PRESETS:
        raise ValueError(describe_unknown("preset", name, module.PRESETS))
    method = _find_value(arguments, "method")
    if method and method not in METHODS:
        raise ValueError(describe_unknown("method", method, METHODS))
    options: Options = replace(module.PRESETS[name](), preset=name)
    its_type: Any = type(options)
    groups, every_group = _make_groups(its_type, tuple(module.PRESETS))
    defaults = {
        group: kind(**{f.name: getattr(options, f.name) for f in fields(kind)}) for group, kind in groups.items()
    }
    program = f"python -m {module.__name__}"
    with one_line_errors(program):
        parsed = tyro.cli(
            every_group,
            default=every_group(**defaults),
            args=arguments,
            prog=program,
            description=_describe(module),
            config=(tyro.conf.OmitArgPrefixes,),
        )
    return replace(
        options, **{f.name: getattr(group, f.name) for group in vars(parsed).values() for f in fields(group)}
    )


def _find_value(arguments: Sequence[str], option: str) -> str:
    """Return the last value that is given for an option, or nothing."""
    values = [""]
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        if name == f"--{option}":
            values.append(value or following)
    return values[-1]


@cache  # tyro reads the source of each new class
def _make_groups(kind: type[Options], presets: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Return a dataclass for each group of options, with their types and help texts, and one that has them all."""
    kinds = get_type_hints(kind) | CHOICES | {"preset": Literal[presets]}
    help_texts = _field_docstrings(kind)
    grouped = {name for names in GROUPS.values() for name in names}
    names = [field.name for field in fields(kind)]
    if undocumented := [name for name in names if name not in help_texts]:
        raise ValueError(f"the option {undocumented[0]} has no docstring, which is its help: add one below the field")
    members_of_group = {"task": [name for name in names if name not in grouped], **GROUPS}
    groups = {
        group: make_dataclass(
            group,
            [(name, Annotated[kinds[name], tyro.conf.arg(help=help_texts[name])]) for name in members if name in names],
            frozen=True,
            kw_only=True,
        )
        for group, members in members_of_group.items()
    }
    without_help = [(name, Annotated[group, tyro.conf.arg(help="")]) for name, group in groups.items()]
    return groups, make_dataclass("Groups", without_help, frozen=True)


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the string that follows each field in the source of a dataclass or of its bases."""
    texts = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in pairwise(definition.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                texts[ast.unparse(statement.target)] = " ".join(ast.literal_eval(following.value).split())
    return texts


def _describe(module: Any) -> str:
    """Return the task's own description, and a line for each preset and method."""
    presets = [f"  {name}: {_first_sentence(make.__doc__)}" for name, make in module.PRESETS.items()]
    methods = [f"  {name}: {_describe_method(method)}" for name, method in METHODS.items()]
    return "\n".join([inspect.cleandoc(module.__doc__), "", "Presets:", *presets, "", "Methods:", *methods])


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".")


def _describe_method(method: Method) -> str:
    """Return what a method removes, by what, and when."""
    if method.criterion is None:
        return "prune nothing"
    criterion = next(name for name, row in CRITERIA.items() if row == method.criterion)
    units = "nodes" if method.structured else "weights"
    when = {"rewind": "after each training, then train anew", "tick-tock": "in turn with training"}
    time = when.get(method.procedure) or TIMES[method.trigger.__name__]
    rounds = "" if method.schedule is one_shot else " in rounds"
    choice = "at random" if criterion == "random" else f"by {criterion}"
    return f"remove {units} {choice}{rounds}, {time}"


def check(options: Options) -> None:
    """Raise a ValueError for an option of every task that is out of its range."""
    check_values(options)
    if options.method != "dense" and not 0 < options.sparsity < 1:
        raise ValueError(f"--sparsity must be above 0 and below 1, and is {options.sparsity}: it is the share removed")
    if getattr(options, "data", None) == "":
        raise ValueError("--data is empty: it takes a data set's name, or a folder")
    if options.seed >= 2**64:
        raise ValueError(f"--seed must be below 2**64, and is {options.seed}")
    if options.country:
        EmissionsMeter(options.country)
    at_once = options.trigger in ("before", "0") or (not options.trigger and METHODS[options.method].trigger is before)
    if options.prune_on and not at_once:
        raise ValueError(f"--prune-on is for what is pruned before training, and {options.method} is not: take crop-s")
