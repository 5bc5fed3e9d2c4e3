"""Whether what a record says of its network is so: counted again on the saved model, where it is still there."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

import earlycrop
from earlycrop import measure
from earlycrop.tracing.trace import trace
from earlycrop.utils.errors import TraceError
from leaderboards.records import Record, record_path
from leaderboards.table import VARIES
from tasks import Task
from tasks.runner.options import Options
from tasks.runner.outcome import count_nonzero_parameters

TOLERANCE = 1e-4
"""A row of an embedding that stands for padding is zero without having been cut."""


class Recount:
    """Counts again; networks of one configuration are built once.

    ``skipped``: why models could not be counted that are there, such as data that are not.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.counted = 0
        self.skipped: dict[str, str] = {}
        self._made: dict[str, Task | str] = {}

    def problems(self, out: Path, records: Iterable[Record]) -> Iterator[str]:
        """A sentence for every number that is not that of the saved model, starting with the record's file."""
        for record in records:
            row = record.result
            folder = self.runs / row.run
            if not (folder / earlycrop.saving.MODEL_FILE).exists():
                continue
            task = self._task({**record.config, "task": row.task})
            if isinstance(task, str):
                self.skipped[row.run] = task
                continue
            path = record_path(out, row.task, row.run)
            try:
                yield from (f"{path}: {difference}" for difference in differences(record, task, folder))
            except earlycrop.SavingError as error:
                yield f"{path}: its model cannot be counted: {error}"
            except (ValueError, OSError, ImportError, TraceError) as error:
                self.skipped[row.run] = str(error)
            else:
                self.counted += 1

    def _task(self, config: dict[str, Any]) -> Task | str:
        """The task of a configuration; why there is none."""
        same = {key: value for key, value in config.items() if key not in VARIES or key == "task"}
        key = json.dumps(same, sort_keys=True)
        if key not in self._made:
            try:
                self._made[key] = made(config)
            except (ValueError, TypeError, OSError, ImportError) as error:
                self._made[key] = str(error)
        return self._made[key]


def made(config: dict[str, Any]) -> Task:
    """The task that a run's configuration tells of.

    Raises:
        ValueError, OSError: it cannot be made here. TypeError, ImportError: it is of another version of the code.
    """
    module = importlib.import_module(f"tasks.{config['task']}")
    task: Task = module.make(options_of(module, config))
    return task


def options_of(module: Any, config: dict[str, Any]) -> Options:
    """The options of a configuration, which leaves out what is at its default and what changes nothing."""
    kind = type(module.PRESETS["default"]())
    known = {field.name for field in fields(kind)}
    given = {key: value for key, value in config.items() if key not in ("task", "processes")}
    if odd := sorted(set(given) - known):
        raise TypeError(f"there is no option {odd[0]} any more")
    options: Options = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
    return options


def differences(record: Record, task: Task, folder: Path) -> Iterator[str]:
    """What is not as the record has it, counted on the model in ``folder``.

    Raises:
        SavingError: that is broken, or of another network.
    """
    row = record.result
    dense = task.model()
    model = earlycrop.load(folder, task.model())
    counts: dict[str, float] = {
        "weight_sparsity": measure.weight_sparsity(model, dense),
        "parameters": count_nonzero_parameters(model),
    }
    if row.structured:
        counts["node_sparsity"] = measure.node_sparsity(*(trace(net, _example(task, net)) for net in (model, dense)))
    for name, now in counts.items():
        recorded = getattr(row, name)
        if abs(now - recorded) > (TOLERANCE if isinstance(recorded, float) else 0):
            yield f"{name} is {recorded:.10g}, but {now:.10g} in the model saved in {folder}"


def _example(task: Task, model: nn.Module) -> Any:
    """A forward pass to trace."""
    batch = next(iter(task.batches(model, 1)))
    model.eval()
    return lambda network: task.loss(network, batch)
