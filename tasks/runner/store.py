"""A run's folder: its configuration, its log, its checkpoints and its result.

Nothing is lost: every file is written under a temporary name and renamed, and an unreadable one is named and left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor, nn

import earlycrop
from tasks import DataFingerprint, Task
from tasks.runner import distributed
from tasks.runner.checkpoints import checkpoint, checkpoints, read_checkpoint
from tasks.runner.errors import RunError
from tasks.runner.files import read_table, read_text, write
from tasks.runner.options import ASIDE, LATER, Options, without_ignored
from tasks.runner.result import Result

VERSION = 2
"""Of the rule that a run's id is made by: version 1 counts options that the method ignores, too."""


def configuration(task: str, options: Options, version: int = VERSION) -> dict[str, Any]:
    """What makes a run the run that it is: the task and every option that something computed depends on."""
    values = dataclasses.asdict(options)
    untouched = [name for name, value in LATER.items() if name in values and values[name] == value]
    for name in (*ASIDE, *untouched):
        del values[name]
    together = {"processes": distributed.processes()} if distributed.processes() > 1 else {}
    config = {"task": task, **json.loads(json.dumps(values, default=str)), **together}
    return config if version == 1 else without_ignored(config)


def identity(config: dict[str, Any], version: int = VERSION) -> str:
    """A run's id: its task and a hash of its configuration, by the rule of that version."""
    counted = config if version == 1 else without_ignored(config)
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
    return f"{config['task']}-{digest[:12]}"


def dense_folder(task: str, options: Options) -> Path:
    """Return the folder of the dense run of the same options, be it there or not."""
    return options.runs / identity(configuration(task, dataclasses.replace(options, method="dense")))


def digest(*parts: Tensor | np.ndarray | str) -> str:
    """Return a few letters that differ where any of the parts differs, for a :data:`tasks.DataFingerprint`."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return hasher.hexdigest()[:12]


def set_aside(runs: Path, config: dict[str, Any]) -> None:
    """Give the folder of a run another name, so that the run starts anew.

    Raises:
        RunError: A process is at work on it.
    """
    folder = runs / identity(config)
    if folder.exists():
        Store(runs, config).close()  # complains if another process is at work on it
        number = next(n for n in count(1) if not folder.with_name(f"{folder.name}.old{n}").exists())
        folder.rename(folder.with_name(f"{folder.name}.old{number}"))


class Store:
    """The folder ``runs``/<id>; the id is a hash of the configuration, so that the same command finds its run.

    Of several processes that train together, only the first one locks the folder and writes.

    Raises:
        RunError: The folder cannot be written, is used by another process, or belongs to another configuration.
    """

    def __init__(self, runs: Path, config: dict[str, Any]) -> None:
        self.id = identity(config)
        self.folder = runs / self.id
        self.config = config
        if distributed.rank():
            return
        try:
            (self.folder / "checkpoint").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise RunError(f"another process is at work on {self.folder}: wait for it, or change an option") from None
        except OSError as error:
            raise RunError(
                f"the run folder {self.folder} cannot be written ({error}): give another with --runs"
            ) from None
        self._remove_leftovers()
        path = self.folder / "config.json"
        if not path.exists():
            self.write("config.json", json.dumps(config, indent=1) + "\n")
        try:
            self._require_same(read_table(path), path)
        except ValueError as error:
            self._lock.release()
            raise RunError(f"{error}: the file is broken, so move it away") from None

    def _remove_leftovers(self) -> None:
        """Remove what processes that were killed were about to write, now that no other process is at work here."""
        for file in self.folder.glob(".*.tmp"):
            file.unlink()
        for place in (self.folder / "checkpoint").glob(".epoch-*"):
            shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        if not distributed.rank():
            self._lock.release()

    def write(self, name: str, text: str) -> None:
        """Put a text file in place."""
        if not distributed.rank():
            with self._writing():
                write(self.folder / name, text)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise a RunError where a file cannot be written, as on a full disk; what was written before stays."""
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.folder} cannot be written ({error.strerror or error}): make room there, and the same command "
                "goes on from the last checkpoint"
            ) from None

    def result(self) -> Result | None:
        """The finished run's result, if it is finished."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        try:
            return Result.from_json(read_text(path), str(path))
        except ValueError as error:
            raise RunError(f"{error}: move the file away, and the same command writes it anew") from None

    def finish(self, result: Result) -> None:
        self.write("result.json", result.to_json())
        (self.folder / "failure.json").unlink(missing_ok=True)

    def log(self, lines: list[dict[str, Any]]) -> None:
        """Put the whole log in place, an epoch a line."""
        self.write("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def save(self, model: nn.Module, epoch: int, state: dict[str, Any], keep: Iterable[int] = ()) -> None:
        """Write the checkpoint after ``epoch`` epochs, and only then drop the ones before, but those to ``keep``."""
        if distributed.rank():
            return
        path = checkpoint(self.folder, epoch)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self._writing():
            try:
                earlycrop.save(model, temporary)
                earlycrop.save_state({"config": self.config, **state}, temporary / "state.safetensors")
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            for number, older in checkpoints(self.folder).items():
                if number not in (epoch, *keep):
                    shutil.rmtree(older)

    def load(self, model: nn.Module, data: DataFingerprint) -> dict[str, Any] | None:
        """Bring ``model`` to the last checkpoint, if it is of these data; its state, or None where there is none."""
        if not self.folder.is_dir():
            raise RunError(f"this process does not see {self.folder}: give a shared folder with --runs")
        by_epoch = checkpoints(self.folder)
        if not by_epoch:
            return None
        last = by_epoch[max(by_epoch)]
        otherwise = f"move {last} away to start the run anew, or give another folder with --runs"
        return read_checkpoint(last, model, data, lambda config: self._require_same(config, last), otherwise)

    def model(self, task: Task) -> nn.Module:
        """The finished run's model."""
        try:
            return earlycrop.load(self.folder, task.model())
        except earlycrop.SavingError as error:
            raise RunError(f"the run's model cannot be read: {error}") from None

    def _require_same(self, config: Any, path: Path) -> None:
        if config != self.config:
            keys = sorted(k for k in {*config, *self.config} if config.get(k) != self.config.get(k))
            raise RunError(f"{path} belongs to another configuration (it differs in {', '.join(keys)}): move it away")
