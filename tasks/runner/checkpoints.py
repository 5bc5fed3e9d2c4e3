"""Checkpoints of a run: where they are, how one is read, and how a run starts from one that a dense run kept.

A run that prunes at a given epoch is the dense one up to there, if nothing else tells them apart: it can branch off it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import earlycrop
from earlycrop import METHODS
from tasks import DataFingerprint
from tasks.runner.errors import RunError
from tasks.runner.files import parse, read_table, read_text
from tasks.runner.networks import count_nonzero_parameters
from tasks.runner.options import PRUNING, Options

FREE = ("method", *PRUNING)
"""Options that change nothing up to a pruning at a given epoch."""
KINDS: dict[str, type | tuple[type, ...]] = {
    "config": dict, "data": dict, "optimizer": dict, "pruner": dict, "task": object, "rng": Tensor, "cuda": list,
    "epoch": int, "seconds": (int, float), "log": list, "spent": (dict, type(None)), "keep": list,
}  # fmt: skip
"""The entries of a checkpoint's state."""


def checkpoint(folder: Path, epoch: int) -> Path:
    """Return where the run in ``folder`` keeps its checkpoint after ``epoch`` epochs."""
    return folder / "checkpoint" / f"epoch-{epoch:05d}"


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return a run's checkpoints by epoch. Whatever else lies there, such as a copy of one, is no checkpoint."""
    places = (folder / "checkpoint").iterdir() if (folder / "checkpoint").is_dir() else ()
    names = {place: re.fullmatch(r"epoch-(\d{5,})", place.name) for place in places}
    return {int(name[1]): place for place, name in names.items() if name and place.is_dir()}


def read_checkpoint(
    path: Path, model: nn.Module, data: DataFingerprint, accept: Callable[[dict[str, Any]], None], otherwise: str
) -> dict[str, Any]:
    """Load a checkpoint into ``model``; return its state.

    Args:
        path: The checkpoint.
        model: The network.
        data: The data that the run would go on with, see :meth:`tasks.Task.trained_on`.
        accept: Raises an error where the configuration of the checkpoint's run does not fit.
        otherwise: What to do where the checkpoint cannot be used, for the error.

    Raises:
        RunError: The checkpoint cannot be read, is of other data, or its parts are not of one checkpoint.
    """
    try:
        state: Any = earlycrop.load_state(path / "state.safetensors")
        for name, kind in KINDS.items():
            if not isinstance(state, dict) or name not in state or not isinstance(state[name], kind):
                raise RunError(f"the state of {path} has no sound entry '{name}': it was changed; {otherwise}")
        accept(state["config"])
        before = state["data"]  # older runs noted less of them
        if changed := [f"{k} was {before[k]} and is {data[k]}" for k in data if before.get(k, data[k]) != data[k]]:
            raise RunError(
                f"the data are not those of {path} any more ({', '.join(changed)}): give the old ones, or {otherwise}"
            )
        earlycrop.load(path, model)  # only now, as a network of another size may be made of it
    except earlycrop.SavingError as error:
        raise RunError(f"the checkpoint cannot be read: {error}; {otherwise}") from None
    if fault := _disagreement(state, path, model):
        raise RunError(f"the state of {path} is of another checkpoint ({fault}): {otherwise}")
    return dict(state)


def _disagreement(state: dict[str, Any], path: Path, model: nn.Module) -> str | None:
    """Return how a state disagrees with the checkpoint's name, its log, its pruner or its model; None if it agrees."""
    epoch, log = state["epoch"], state["log"]
    numbers = [line.get("epoch") if isinstance(line, dict) else None for line in log]
    first = numbers[0] if numbers else 1
    pruner_epoch = state["pruner"].get("epoch")
    faults = {
        f"its epoch is {epoch}": path.name != f"epoch-{epoch:05d}",
        f"its pruner is at epoch {pruner_epoch}": pruner_epoch != epoch,
        f"its log has the epochs {numbers}": first not in (0, 1) or numbers != list(range(first, epoch + 1)),
        "its log is not that of the run": not _is_begin_of(log, path.parent.parent / "log.jsonl"),
    }
    if log and isinstance(log[-1], dict):
        counted, noted = count_nonzero_parameters(model), log[-1].get("parameters")
        faults[f"its log tells {noted} parameters, and its model has {counted}"] = noted != counted
    return next((fault for fault, holds in faults.items() if holds), None)


def _is_begin_of(log: list[Any], file: Path) -> bool:
    """Return whether a log is the begin of the one in a file, which is written before, as far as there is one."""
    if not file.exists():
        return True
    try:
        lines = [parse(line, str(file), number) for number, line in enumerate(read_text(file).splitlines(), start=1)]
    except ValueError as error:
        raise RunError(f"{error}: move the file away, and the same command writes it anew") from None
    return all(json.dumps(a) == json.dumps(b) for a, b in zip(log, lines, strict=False))


def check_branch(options: Options, config: dict[str, Any]) -> None:
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
    _accept_trunk(read_table(folder / "config.json"), config, folder)
    if not checkpoint(folder, int(options.trigger)).is_dir():
        raise ValueError(f"{folder} has kept no checkpoint of epoch {options.trigger}: run it with --keep")


def _accept_trunk(trunk: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Raise a RunError if the run of configuration ``trunk`` is another one before any pruning."""
    if trunk.get("method") != "dense":
        raise RunError(f"{folder} holds a run of {trunk.get('method')}: branch off a dense one")
    needs_constant = config.get("schedule") in ("after-cut", "constant")
    if (trunk.get("schedule") == "constant") != needs_constant:
        schedule = "--schedule constant" if needs_constant else "its own schedule"
        raise RunError(f"the learning rate of {folder} is another one: branch off a dense run with {schedule}")
    keys = sorted({*trunk, *config} - set(FREE))
    if other := [key for key in keys if trunk.get(key) != config.get(key)]:
        raise RunError(f"{folder} is another training (it differs in {', '.join(other)}): branch off one alike")


def branch_off(options: Options, config: dict[str, Any], model: nn.Module, data: DataFingerprint) -> dict[str, Any]:
    """Load the dense run's checkpoint into ``model``; return its state.

    Raises:
        RunError: The checkpoint cannot be read, or the data are others.
    """
    assert options.branch_from is not None
    folder = options.branch_from
    path = checkpoint(folder, int(options.trigger))
    return read_checkpoint(
        path, model, data, lambda trunk: _accept_trunk(trunk, config, folder), "leave out --branch-from"
    )


def require_kept(options: Options, folder: Path) -> None:
    """Raise a RunError if the run in a folder has come past an epoch that it is asked to keep, and has not kept it."""
    done = max(checkpoints(folder), default=0)
    gone = [str(epoch) for epoch in options.keep if epoch <= done and not checkpoint(folder, epoch).is_dir()]
    if gone:
        raise RunError(
            f"{folder} is at epoch {done} and has kept no checkpoint of epoch {', '.join(gone)}: move it away, and the "
            "same command trains it again"
        )
