"""Counts of a record, taken again on the model that its run has saved."""

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
from earlycrop.saving.models import MODEL_FILE
from earlycrop.tracing.trace import trace
from earlycrop.utils.errors import TraceError
from leaderboards.records import Record, read_run, record_path
from leaderboards.table import VARIES
from tasks import Task
from tasks.runner.networks import count_nonzero_parameters
from tasks.runner.options import Options

TOLERANCE = 1e-4
"""A row of an embedding that stands for padding is zero without having been cut."""


class Recount:
    """Recounts the models in a folder of runs; tasks of one configuration are made once."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.counted = 0
        self.skipped: dict[str, str] = {}
        """Run -> why its model was not counted: it is of another run than the record's, or its data are missing."""
        self._tasks: dict[str, Task] = {}

    def problems(self, out: Path, records: Iterable[Record]) -> Iterator[str]:
        """Yield a sentence for every number that is not that of the saved model, starting with the record's file."""
        for record in records:
            row, folder = record.result, self.runs / record.result.run
            if not (folder / MODEL_FILE).exists():
                continue
            path = record_path(out, row.task, row.run)
            try:
                if not record.same_run(read_run(folder)):
                    raise ValueError("it is another run than the one in the record")
                sentences = list(differences(record, self._task({**record.config, "task": row.task}), folder))
            except earlycrop.SavingError as error:
                yield f"{path}: its model cannot be counted: {error}"
            except (ValueError, TypeError, OSError, ImportError, TraceError) as error:
                self.skipped[row.run] = str(error)
            else:
                self.counted += 1
                yield from (f"{path}: {sentence}" for sentence in sentences)

    def _task(self, config: dict[str, Any]) -> Task:
        key = json.dumps({name: config[name] for name in sorted(config) if name not in VARIES or name == "task"})
        if key not in self._tasks:
            self._tasks[key] = made(config)
        return self._tasks[key]


def made(config: dict[str, Any]) -> Task:
    """Return the task of a run's configuration."""
    module = importlib.import_module(f"tasks.{config['task']}")
    task: Task = module.make(options_of(module, config))
    return task


def options_of(module: Any, config: dict[str, Any]) -> Options:
    """Return the options of a configuration, which leaves out what is at its default and what changes nothing."""
    kind = type(module.PRESETS["default"]())
    known = {field.name for field in fields(kind)}
    given = {key: value for key, value in config.items() if key not in ("task", "processes")}
    if odd := sorted(set(given) - known):
        raise TypeError(f"there is no option {odd[0]} any more")
    options: Options = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
    return options


def differences(record: Record, task: Task, folder: Path) -> Iterator[str]:
    """Yield what differs between the record and the model in ``folder``; raise SavingError if that is broken."""
    row, dense = record.result, task.model()
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
    """Return a forward pass to trace."""
    batch = next(iter(task.batches(model, 1)))
    model.eval()
    return lambda network: task.loss(network, batch)
