"""Check that a checkpoint's state belongs to the checkpoint, its log and its model, before a run goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tasks.runner.counts import count_nonzero_parameters
from tasks.runner.errors import RunError
from tasks.runner.json_files import parse, read_text

KINDS: dict[str, type | tuple[type, ...]] = {
    "config": dict, "data": dict, "optimizer": dict, "pruner": dict, "task": object, "rng": Tensor, "cuda": list,
    "epoch": int, "seconds": (int, float), "log": list, "spent": (dict, type(None)), "keep": list,
}  # fmt: skip


def require_form(state: Any, path: Path, otherwise: str) -> None:
    """Raise a RunError if a state lacks an entry, or one is of another type.

    Args:
        state: What the checkpoint's file holds.
        path: The checkpoint.
        otherwise: What to do then.
    """
    for name, kind in KINDS.items():
        if not isinstance(state, dict) or name not in state or not isinstance(state[name], kind):
            raise RunError(f"the state of {path} has no sound entry '{name}': it was changed; {otherwise}")


def require_agreement(state: dict[str, Any], path: Path, model: nn.Module, otherwise: str) -> None:
    """Raise a RunError if a state does not agree with the checkpoint's name, its log, its pruner or its model.

    Args:
        state: The state, of the right form.
        path: The checkpoint.
        model: The network, as the checkpoint has it.
        otherwise: What to do then.
    """
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
    if wrong := [fault for fault, holds in faults.items() if holds]:
        raise RunError(f"the state of {path} is of another checkpoint ({wrong[0]}): {otherwise}")


def _is_begin_of(log: list[Any], file: Path) -> bool:
    """Return whether a log is the begin of the one in a file, which is written before, as far as there is one."""
    if not file.exists():
        return True
    try:
        lines = [parse(line, str(file), number) for number, line in enumerate(read_text(file).splitlines(), start=1)]
    except ValueError as error:
        raise RunError(f"{error}: move the file away, and the same command writes it anew") from None
    return all(json.dumps(a) == json.dumps(b) for a, b in zip(log, lines, strict=False))
