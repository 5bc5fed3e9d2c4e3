"""Small runs, stopped where a test wants it, and what they leave."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

import tasks
from tasks.runner import training_loop
from tasks.runner.options import Options
from tasks.runner.result import Result
from tasks.runner.store import Store, configuration

TINY = [
    "--steps", "4000", "--epochs", "6", "--agents", "4", "--rollout", "16", "--widths", "16", "16",
    "--scoring-rollouts", "1", "--scoring-length", "32",
]  # fmt: skip


def command(runs: Path, *more: str) -> list[str]:
    return [*TINY, "--runs", str(runs), *more]


def folder(runs: Path) -> Path:
    (path,) = runs.iterdir()
    return path


def contents(runs: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions: weights, log and result, without what a clock says."""
    run = folder(runs)
    with safe_open(run / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in log:
        del line["seconds"]
        if line["event"]:
            del line["event"]["seconds"]
    result = json.loads((run / "result.json").read_text())
    for clock in ("train_seconds", "batch_ms", "dense_batch_ms", "of_macs_limit", "load"):
        del result[clock]
    for memory in ("peak_memory_bytes", "step_bytes", "dense_step_bytes"):
        del result[memory]
    return {"weights": weights, "log": log, "result": result}


def until(last: int, task: str, options: Options, runs: Path) -> tuple[Result, Store]:
    """Run as the command line does, from the last checkpoint on, and press Ctrl-C after the epoch ``last``."""
    store = Store(runs, configuration(task, options))

    def report(epoch: int, line: dict[str, Any]) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    try:
        return training_loop.run(
            task, importlib.import_module(f"tasks.{task}").make(options), options, store, report
        ), store
    finally:
        store.close()


def log_of(store: Store) -> list[dict[str, Any]]:
    """A run's log, an epoch an entry."""
    return [json.loads(line) for line in (store.folder / "log.jsonl").read_text().splitlines()]


def root() -> Path:
    return Path(tasks.__file__).parent.parent
