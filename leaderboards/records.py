"""Run records: what is kept of a finished run, small enough for version control, enough for tables and pictures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.runner.atomic_files import replacing
from tasks.runner.ignored_options import without_ignored
from tasks.runner.result import Result
from tasks.runner.store import VERSION

SHARES = ("sparsity_asked", "weight_sparsity", "node_sparsity")
POSITIVE = (
    *("epochs", "parameters", "macs", "train_seconds", "batch_ms"),
    *("peak_memory_bytes", "disk_bytes", "csr_bytes"),
)


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
    """By which rule the id was made, see :func:`tasks.runner.store.identity`; records of version 1 do not say so."""

    def same_run(self, other: Record) -> bool:
        """Whether both tell of the same execution; copying a folder may change its times."""
        return (self.config, self.result, self.log) == (other.config, other.result, other.log)

    def to_json(self) -> str:
        """The record as JSON with a field a line and an epoch a line, so that a difference can be read."""
        epochs = ",\n".join(f"  {json.dumps(line, allow_nan=False)}" for line in self.log)
        config = json.dumps(self.config, indent=1, allow_nan=False)
        result = json.dumps(asdict(self.result), indent=1, allow_nan=False)
        version = f'"version": {self.version},\n' if self.version > 1 else ""
        head = f'{version}"finished": {json.dumps(self.finished)},\n"config": {config},\n"result": {result}'
        return f'{{\n{head},\n"log": [\n{epochs}\n]\n}}\n'


def faults(record: Record) -> list[tuple[str, str]]:
    """What is out of range or contradicts itself in a record, as pairs of the field and a sentence."""
    row, sentences = record.result, []
    for name in SHARES:
        share = getattr(row, name)
        if share is not None and not 0 <= share <= 1:
            sentences.append((name, f"{name} is {share}, not between 0 and 1"))
    sentences += [(name, f"{name} is {value}, not positive") for name in POSITIVE if (value := getattr(row, name)) <= 0]
    if (row.method == "dense") != (row.sparsity_asked is None):
        sentences.append(("sparsity_asked", f"sparsity_asked is {row.sparsity_asked} for method {row.method}"))
    trained = row.epochs_trained or row.epochs  # of a method that rewinds more than the budget
    if row.pruned_epoch is not None and not 0 <= row.pruned_epoch <= trained:
        sentences.append(("pruned_epoch", f"pruned_epoch is {row.pruned_epoch}, not between 0 and {trained} epochs"))
    for name in ("task", "method", "preset", "seed", "epochs"):
        configured = record.config.get(name, getattr(row, name))
        if configured != getattr(row, name):
            sentences.append(
                (name, f"{name} is {getattr(row, name)!r} in the result and {configured!r} in the configuration")
            )
    return sentences + [("log", sentence) for sentence in _log_faults(record.log)]


def _log_faults(log: list[dict[str, Any]]) -> Iterator[str]:
    for before, after in pairwise(log):
        if after["epoch"] <= before["epoch"]:
            yield f"epoch {after['epoch']} follows epoch {before['epoch']} in the log"
        games = [line["games"] for line in (before, after) if line.get("games") is not None]
        if len(games) == 2 and games[1] < games[0]:
            yield f"games must count all games so far, but epoch {after['epoch']} has {games[1]} after {games[0]}"


def read_record(path: Path) -> Record:
    """The record in ``path``; raises ValueError naming the file, and the line or the field, when it is not one."""
    data = _read_json(path)
    if not isinstance(data, dict) or set(data) - {"version"} != {"finished", "config", "result", "log"}:
        raise ValueError(f"{path}: a record is an object of finished, config, result and log, and of a version")
    version = data.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"{path}: there is no version {version!r} of records: take a later version of the code")
    if not isinstance(data["config"], dict) or not isinstance(data["finished"], str):
        raise ValueError(f"{path}: config must be an object, and finished a time")
    log: list[Any] = data["log"] if isinstance(data["log"], list) else [None]
    for line in log:
        _check_epoch(line, str(path))
    result = Result.from_dict(data["result"], str(path))
    if (result.task, result.run) != (path.parent.name, path.stem):
        raise ValueError(f"{path}: holds run {result.run} of task {result.task}, which does not belong here")
    return Record(config=data["config"], result=result, log=log, finished=data["finished"], version=version)


def read_run(folder: Path) -> Record:
    """The record of the finished run in ``folder``; raises ValueError naming the file that is missing or wrong."""
    config, result = _read_json(folder / "config.json"), folder / "result.json"
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'}: expected an object with the run's options")
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
    """The folders of the finished runs under ``runs``, and how many others are ``unfinished`` and ``failed``."""
    done, skipped = [], Counter[str]()
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        if not re.fullmatch(r"[^.]+", folder.name) or not folder.is_dir():  # what --fresh set aside has a dot
            continue
        if (folder / "result.json").exists():
            done.append(folder)
        elif (folder / "failure.json").exists():
            skipped["failed"] += 1
        elif (folder / "config.json").exists():
            skipped["unfinished"] += 1
    return done, skipped


def read_records(out: Path, task: str | None = None) -> dict[str, Record]:
    """All records under ``out`` (of one task where it is named), by run id; raises ValueError naming a bad file."""
    return {path.stem: read_record(path) for path in record_files(out, task)}


def record_files(out: Path, task: str | None = None) -> list[Path]:
    """The record files under ``out``, of one task where it is named."""
    return sorted((out / "records").glob(f"{task or '*'}/*.json"))


def record_path(out: Path, task: str, run: str) -> Path:
    """Where a run's record lies."""
    return out / "records" / task / f"{run}.json"


def write_record(out: Path, record: Record) -> None:
    """Put a record in its place."""
    with replacing(record_path(out, record.result.task, record.result.run)) as path:
        path.write_text(record.to_json(), encoding="utf-8")


def merge(kept: dict[str, Record], new: Iterable[Record], replace: bool) -> tuple[list[Record], list[str]]:
    """The records of ``new`` that have to be written next to ``kept``, and a line for every id that both tell of.

    Those of ``kept`` stay, unless they are to be ``replace``-d.
    """
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


def _read_json(path: Path) -> Any:
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON (not even text)") from None


def _parse(text: str) -> Any:
    # NaN and Infinity are not JSON: a loss that has blown up is kept as null, which no curve passes through.
    return json.loads(text, parse_constant=lambda _: None)


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise ValueError(f"{path}: missing")
    log = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = _parse(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg})") from None
        _check_epoch(entry, f"{path}:{number}")
        log.append(entry)
    return log


def _check_epoch(entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        raise ValueError(f"{where}: a line of the log is an object with an integer epoch")
    for key in ("games", "return"):
        if not isinstance(entry.get(key), int | float | None):
            raise ValueError(f"{where}: {key} is {entry[key]!r}, not a number")
