"""Records of finished runs: small enough for version control, enough for tables and pictures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from tasks.runner.files import parse, read_text, replacing
from tasks.runner.options import config_fault, without_ignored
from tasks.runner.result import Result
from tasks.runner.store import VERSION

T = TypeVar("T")
LARGEST = 1e30
"""The largest number of a record."""
SHARES = ("sparsity_asked", "weight_sparsity", "node_sparsity")
POSITIVE = (
    "epochs", "parameters", "macs", "train_seconds", "batch_ms", "peak_memory_bytes", "disk_bytes", "csr_bytes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of one finished run."""

    config: dict[str, Any]
    """The run's options and its task's name."""
    result: Result
    """The run's row."""
    log: list[dict[str, Any]]
    """The run's epochs, one entry each."""
    finished: str
    """When the run finished (UTC, ISO 8601)."""
    version: int = 1
    """The rule of the id, see :func:`tasks.runner.store.identity`; records of version 1 do not say so."""

    def same_run(self, other: Record) -> bool:
        """Return whether both are of the same execution; copying a folder may change its times."""
        return (self.config, self.result, self.log) == (other.config, other.result, other.log)

    def to_json(self) -> str:
        """Return the record as JSON with a field a line and an epoch a line, so that a difference can be read."""
        epochs = ",\n".join(f"  {json.dumps(line, allow_nan=False)}" for line in self.log)
        config = json.dumps(self.config, indent=1, allow_nan=False)
        result = json.dumps(asdict(self.result), indent=1, allow_nan=False)
        version = f'"version": {self.version},\n' if self.version > 1 else ""
        head = f'{version}"finished": {json.dumps(self.finished)},\n"config": {config},\n"result": {result}'
        return f'{{\n{head},\n"log": [\n{epochs}\n]\n}}\n'


def validated(record: Record) -> Record:
    """Return the record with the validation accuracy after the last epoch as its metric, where it has one."""
    value = record.log[-1].get("validation_accuracy") if record.log else None
    if value is None:
        return record
    return replace(record, result=replace(record.result, value=float(value), split="validation"))


def faults(record: Record) -> Iterator[tuple[str, str]]:
    """Yield what is out of range or contradicts itself in a record, as pairs of the field and a sentence."""
    row = record.result
    for name in SHARES:
        if not 0 <= (getattr(row, name) or 0) <= 1:
            yield name, f"{name} is {getattr(row, name)}, not between 0 and 1"
    for name in POSITIVE:
        if getattr(row, name) <= 0:
            yield name, f"{name} is {getattr(row, name)}, not positive"
    if (row.method == "dense") != (row.sparsity_asked is None):
        yield "sparsity_asked", f"sparsity_asked is {row.sparsity_asked} for method {row.method}"
    trained = row.epochs_trained or row.epochs  # of a method that rewinds more than the budget
    if not 0 <= (row.pruned_epoch or 0) <= trained:
        yield "pruned_epoch", f"pruned_epoch is {row.pruned_epoch}, not between 0 and {trained} epochs"
    for name in ("task", "method", "preset", "seed", "epochs"):
        value = getattr(row, name)
        if record.config.get(name, value) != value:
            yield name, f"{name} is {value!r} in the result and {record.config[name]!r} in the configuration"
    yield from (("log", sentence) for sentence in _log_faults(record.log))


def _log_faults(log: list[dict[str, Any]]) -> Iterator[str]:
    for before, after in pairwise(log):
        if after["epoch"] <= before["epoch"]:
            yield f"epoch {after['epoch']} follows epoch {before['epoch']} in the log"
        games = [line["games"] for line in (before, after) if line.get("games") is not None]
        if len(games) == 2 and games[1] < games[0]:
            yield f"games must count all games so far, but epoch {after['epoch']} has {games[1]} after {games[0]}"


def read_record(path: Path) -> Record:
    """Read a record; raise ValueError, naming the file and the line or the field, if it is not one."""
    data = _read_json(path)
    if not isinstance(data, dict) or set(data) - {"version"} != {"finished", "config", "result", "log"}:
        raise ValueError(f"{path}: a record is an object of finished, config, result and log, and of a version")
    version = data.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"{path}: there is no version {version!r} of records: take a later version of the code")
    if not isinstance(data["config"], dict) or not isinstance(data["finished"], str):
        raise ValueError(f"{path}: config must be an object, and finished a time")
    if (fault := config_fault(data["config"])) is not None:
        raise ValueError(f"{path}: {fault}")
    log = [_checked(line, str(path)) for line in (data["log"] if isinstance(data["log"], list) else [None])]
    result = Result.from_dict(data["result"], str(path))
    if (result.task, result.run) != (path.parent.name, path.stem):
        raise ValueError(f"{path}: holds run {result.run} of task {result.task}, which does not belong here")
    return Record(config=data["config"], result=result, log=log, finished=data["finished"], version=version)


def read_run(folder: Path) -> Record:
    """Read the finished run in ``folder``; raise ValueError, naming the file that is missing or wrong."""
    config, result = _read_json(folder / "config.json"), folder / "result.json"
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'}: expected an object with the run's options")
    if (fault := config_fault(config)) is not None:
        raise ValueError(f"{folder / 'config.json'}: {fault}")
    row = Result.from_dict(_read_json(result), str(result))
    if row.run != folder.name or not re.fullmatch(r"\w+", row.task):
        raise ValueError(f"{result}: holds run {row.run!r} of task {row.task!r}, in the folder of {folder.name!r}")
    config = {key: value for key, value in config.items() if key != "runs"}  # where it lay is no part of the run
    record = Record(
        config=config,
        result=row,
        log=_read_log(folder / "log.jsonl"),
        finished=datetime.fromtimestamp(result.stat().st_mtime, UTC).isoformat(timespec="milliseconds"),
        version=VERSION if without_ignored(config) == config else 1,
    )
    for _, sentence in faults(record):
        raise ValueError(f"{folder}: {sentence}")
    return record


def finished_runs(runs: Path) -> tuple[list[Path], Counter[str]]:
    """Return the folders of the finished runs, and how many others are ``unfinished`` and ``failed``."""
    done, skipped = [], Counter[str]()
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        if not re.fullmatch(r"[^.]+", folder.name) or not folder.is_dir():  # what --fresh set aside has a dot
            continue
        if (folder / "result.json").exists():
            done.append(folder)
        elif (failed := (folder / "failure.json").exists()) or (folder / "config.json").exists():
            skipped["failed" if failed else "unfinished"] += 1
    return done, skipped


def read_records(out: Path, task: str | None = None, damaged: list[str] | None = None) -> dict[str, Record]:
    """Read all records, or those of one task, by run id.

    Args:
        out: The folder of the leaderboards.
        task: The task.
        damaged: Takes a sentence for each record that cannot be read, which is left out then.

    Raises:
        ValueError: A record cannot be read, and there is no ``damaged``; it names the file.
    """
    return dict(_sound(record_files(out, task), lambda path: (path.stem, read_record(path)), damaged))


def read_runs(folders: Iterable[Path], damaged: list[str]) -> list[Record]:
    """Read finished runs; ``damaged`` takes a sentence for each that cannot be read."""
    return list(_sound(folders, read_run, damaged))


def _sound(paths: Iterable[Path], read: Callable[[Path], T], damaged: list[str] | None) -> Iterator[T]:
    for path in paths:
        try:
            yield read(path)
        except ValueError as error:
            if damaged is None:
                raise
            damaged.append(str(error))


def record_files(out: Path, task: str | None = None) -> list[Path]:
    """Return the record files under ``out``, all or those of one task."""
    return sorted((out / "records").glob(f"{task or '*'}/*.json"))


def record_path(out: Path, task: str, run: str) -> Path:
    """Return where a run's record lies."""
    return out / "records" / task / f"{run}.json"


def record_of(out: Path, record: Record) -> Path:
    """Return where a record has its place."""
    return record_path(out, record.result.task, record.result.run)


def write_record(out: Path, record: Record) -> None:
    """Put a record in its place."""
    write_text(record_of(out, record), record.to_json())


def merge(kept: dict[str, Record], new: Iterable[Record], replace: bool) -> tuple[list[Record], list[str]]:
    """Return the records of ``new`` to write, and a line for each that differs from the one of ``kept`` with its id."""
    write, notes = [], []
    for record in new:
        run, old = record.result.run, kept.get(record.result.run)
        if old is None:
            write.append(record)
        elif not record.same_run(old):
            write += [record] if replace else []
            notes.append(
                f"run {run}: {'replaced' if replace else 'kept'} its record of {old.finished} "
                f"({old.result.metric} {old.result.value:g}); the other run finished {record.finished} "
                f"({record.result.metric} {record.result.value:g})"
                + ("" if replace else ": add --replace to put it in the record's place")
            )
    return write, notes


def write_text(path: Path, text: str) -> None:
    """Put a text file in place, at once and whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _parse(text: str, path: Path, line: int = 1) -> Any:
    """Return what a text of JSON holds; raise ValueError if it is not JSON, or has a number beyond any axis.

    NaN and Infinity are not JSON: a loss that has blown up becomes null, which no curve passes through.
    """
    value = parse(text, str(path), line, parse_constant=lambda _: None)
    if _beyond(value) is not None:
        raise ValueError(f"{path}:{line}: a number is beyond what can be drawn, {LARGEST:g}")
    return value


def _beyond(value: Any) -> int | float | None:
    """Return a number in a nest that no axis reaches, or None."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((number for part in parts if (number := _beyond(part)) is not None), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) > LARGEST else None


def _read_json(path: Path) -> Any:
    return _parse(read_text(path), path)


def _read_log(path: Path) -> list[dict[str, Any]]:
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_checked(_parse(line, path, number), f"{path}:{number}") for number, line in lines]


def _checked(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        raise ValueError(f"{where}: a line of the log is an object with an integer epoch")
    for key in ("games", "return"):
        if not isinstance(entry.get(key), int | float | None):
            raise ValueError(f"{where}: {key} is {entry[key]!r}, not a number")
    return entry
