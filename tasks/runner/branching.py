"""Branching off: a run that prunes at a given epoch starts from what a dense run kept of it, and is the same run.

Up to its pruning such a run is the dense one, if nothing else tells them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from earlycrop import METHODS
from tasks import DataFingerprint
from tasks.runner.errors import RunError
from tasks.runner.ignored_options import PRUNING
from tasks.runner.json_files import read_table
from tasks.runner.options import Options
from tasks.runner.store import Store, checkpoint, read_checkpoint

FREE = ("method", *PRUNING)
"""Options that change nothing up to a pruning at a given epoch."""


def check(options: Options, config: dict[str, Any]) -> None:
    """Raise a ValueError if this run cannot branch off the one that it names."""
    beyond = [epoch for epoch in options.keep if not 1 <= epoch <= options.epochs]
    if beyond:
        raise ValueError(f"--keep takes epochs from 1 to {options.epochs}, not {', '.join(map(str, beyond))}")
    if options.branch_from is None:
        return
    method, folder = METHODS[options.method], options.branch_from
    if not options.trigger.isdecimal() or int(options.trigger) < 1:
        raise ValueError("--branch-from needs the epoch to branch off at: give it as --trigger, 1 or more")
    if method.criterion is None or method.procedure != "once" or method.penalty:
        raise ValueError(f"{options.method} cannot branch off: it trains otherwise from the start, or prunes nothing")
    if not (folder / "config.json").exists():
        raise ValueError(f"there is no run in {folder}: --branch-from takes a run's folder")
    if early := [str(epoch) for epoch in options.keep if epoch < int(options.trigger)]:
        raise ValueError(
            f"--keep takes epochs from {options.trigger} on, where it branches off, not {', '.join(early)}"
        )
    accept(read_table(folder / "config.json"), config, folder)
    if not checkpoint(folder, int(options.trigger)).is_dir():
        raise ValueError(f"{folder} has kept no checkpoint of epoch {options.trigger}: run it with --keep")


def accept(trunk: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Raise a RunError if the run of configuration ``trunk`` is another one before any pruning."""
    keys = sorted({*trunk, *config} - set(FREE))
    if trunk.get("method") != "dense":
        raise RunError(f"{folder} holds a run of {trunk.get('method')}: branch off a dense one")
    is_constant, needs_constant = (
        trunk.get("schedule") == "constant",
        config.get("schedule") in ("after-cut", "constant"),
    )
    if is_constant != needs_constant:
        schedule = "--schedule constant" if needs_constant else "its own schedule"
        raise RunError(f"the learning rate of {folder} is another one: branch off a dense run with {schedule}")
    if other := [key for key in keys if trunk.get(key) != config.get(key)]:
        raise RunError(f"{folder} is another training (it differs in {', '.join(other)}): branch off one alike")


def require_kept(options: Options, store: Store) -> None:
    """Raise a RunError if the run has come past an epoch that it is asked to keep, and has not kept it."""
    done = store.epoch()
    gone = [str(epoch) for epoch in options.keep if epoch <= done and not checkpoint(store.folder, epoch).is_dir()]
    if gone:
        raise RunError(
            f"{store.folder} is at epoch {done} and has kept no checkpoint of epoch {', '.join(gone)}: move it away, "
            "and the same command trains it again"
        )


def start(options: Options, config: dict[str, Any], model: nn.Module, data: DataFingerprint) -> dict[str, Any]:
    """Load the dense run's checkpoint into ``model``; return its state.

    Raises:
        RunError: The checkpoint cannot be read, or the data are others.
    """
    assert options.branch_from is not None
    folder = options.branch_from
    path = checkpoint(folder, int(options.trigger))
    return read_checkpoint(path, model, data, lambda trunk: accept(trunk, config, folder), "leave out --branch-from")
