"""Tables of a data set's splits: of parquet files in a folder, or of the hub."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.runner.errors import first_line

Tables = Mapping[str, Any]
"""Split -> a ``datasets.Dataset``."""


def local(data: str) -> bool:
    """Whether ``data`` is meant as a place on this machine, be it there or not."""
    return Path(data).exists() or data.startswith((".", "/", "~")) or Path(data).parts[:1] == ("data",)


def shards(folder: Path, splits: Mapping[str, Collection[str]], expected: str) -> dict[str, list[Path]]:
    """Each split's parquet files, NAME.parquet or NAME-00000-of-0000N.parquet and so on, or NAME/*.parquet, all in one
    folder: ``folder`` or one in it, as the hub has ``data`` or that of a configuration. ``splits``: what each may be
    called.

    Raises:
        ValueError: a split has no file, not all of its shards, or files of which some may be another's; the sentence
        names them, and says what is ``expected``.
    """
    files_of: dict[str, list[Path]] = {}
    for split, names in splits.items():
        files = split_files(folder, names)
        if not files:
            raise ValueError(f"{folder} has no {split}*.parquet: put there {expected}")
        complete = _whole(files[0], names)
        if set(files) - complete:
            raise ValueError(
                f"{folder} has {_some(folder, files)}, of which one set alone can be the {split} split: give a folder "
                f"of {split}.parquet, or all shards of it, and no other {split}*.parquet"
            )
        if missing := sorted(complete - set(files)):
            raise ValueError(
                f"{missing[0]} is missing, of the {len(complete)} files of the {split} split: fetch it, or them all"
            )
        files_of[split] = files
    first = [files[0] for files in files_of.values()]
    if len({_home(file, splits[split]) for split, file in zip(files_of, first, strict=True)}) > 1:
        raise ValueError(
            f"{folder} has {_some(folder, first)}, in several folders: put the splits that belong together in one"
        )
    return files_of


def split_files(folder: Path, names: Collection[str]) -> list[Path]:
    """The parquet files in ``folder``, or below it, that begin with one of the names; where there are none, those in
    folders of such a name, as the hub converts data sets.
    """
    files = sorted(file for file in folder.rglob("*.parquet") if not file.name.startswith("."))
    begins = re.compile(rf"({'|'.join(names)})(?![a-z])")  # val does not begin validation
    return [file for file in files if begins.match(file.name)] or [
        file for file in files if file.parent != folder and file.parent.name in names
    ]


def _home(file: Path, names: Collection[str]) -> Path:
    """The folder that the file's data set lies in."""
    return file.parent.parent if file.parent.name in names else file.parent


_FORM = re.compile(r"(.+?)(-\d{5}-of-(\d{5}))?\.parquet")


def _whole(file: Path, names: Collection[str]) -> set[Path]:
    """The files of the split that this one is of: itself, or all its shards, or all in the folder of the split's name;
    none if it has another name.
    """
    match = _FORM.fullmatch(file.name)
    if match is None or match[1] not in names:
        return set(split_files(file.parent.parent, [file.parent.name])) if file.parent.name in names else set()
    if match[2] is None:
        return {file}
    return {file.with_name(f"{match[1]}-{i:05d}-of-{match[3]}.parquet") for i in range(int(match[3]))}


def _some(folder: Path, files: Iterable[Path]) -> str:
    """Files by name, of very many the first."""
    names = sorted(str(file.relative_to(folder)) for file in files)
    return " and ".join(names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"])


def parquet(files: Mapping[str, list[Path]]) -> Tables:
    """The splits in these files.

    Raises:
        ValueError: a file cannot be read.
    """
    import datasets

    tables = {}
    with quiet():
        for split, paths in files.items():  # each on its own: together they are cast to the first one's columns
            names = [str(path) for path in paths]
            try:
                tables[split] = datasets.load_dataset("parquet", data_files={split: names})[split]
            except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
                raise ValueError(f"{_fault(names, error)}: fetch it anew") from None
    return tables


def _fault(files: list[str], error: Exception) -> str:
    """What is wrong with the first of the files that cannot be read on its own, or with all of them."""
    from pyarrow.parquet import read_table

    rows = 0
    for file in files:
        try:
            rows += len(read_table(file))
        except (OSError, ValueError) as own:
            return f"{file} cannot be read ({first_line(own)})"
    every = " and ".join(files)
    return f"{every} cannot be read ({first_line(error.__cause__ or error)})" if rows else f"{every} has no rows"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars of loading, and without its own report of what is raised anyway."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def column(where: str, table: Any, name: str) -> list[Any]:
    """All rows of a column; raises ValueError, with the row, for a text that is not UTF-8. ``where``: for that."""
    try:
        return list(table[name])
    except UnicodeDecodeError:
        for row in range(len(table)):
            try:
                table[row]
            except UnicodeDecodeError:
                raise ValueError(f"{where}: {name} of row {row} is not UTF-8: mend or remove that row") from None
        raise


def texts(where: str, table: Any, name: str) -> list[str]:
    """All rows of a column of texts; raises ValueError, with the row, for what is none. ``where``: for that."""
    rows = column(where, table, name)
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise ValueError(f"{where}: {name} of row {row} is {text!r}, and no text: mend or remove that row")
    return rows


def hub(data: str, expected: str, configuration: str = "") -> Tables:
    """A data set on the hub: owner/name, or owner/name:configuration.

    Raises:
        ValueError: it cannot be read; the sentence says what is ``expected`` in a folder instead.
    """
    import datasets

    name, _, given = data.partition(":")
    try:
        tables: Tables = datasets.load_dataset(name, configuration or given or None)
    except (OSError, ValueError, RuntimeError) as error:  # no such data set, no connection, no such configuration
        raise ValueError(
            f"the data set {data} cannot be read from the hub ({first_line(error)}): --data takes owner/name or "
            f"owner/name:configuration, or a folder with {expected}"
        ) from None
    return tables
