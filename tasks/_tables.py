"""Tables of a data set's splits: of parquet files in a folder, or of the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks._sentences import first_line

Tables = Mapping[str, Any]
"""Split -> a ``datasets.Dataset``."""


def local(data: str) -> bool:
    """Whether ``data`` is meant as a place on this machine, be it there or not."""
    return Path(data).exists() or data.startswith((".", "/", "~")) or Path(data).parts[:1] == ("data",)


def parquet(folder: Path, splits: Iterable[str], expected: str) -> Tables:
    """The splits' parquet files, anywhere in the folder.

    Raises:
        ValueError: a split has no file, or a file cannot be read; the sentence says what is ``expected``.
    """
    import datasets

    files = {split: [str(f) for f in sorted(folder.rglob(f"{split}*.parquet"))] for split in splits}
    for split, found in files.items():
        if not found:
            raise ValueError(f"{folder} has no {split}*.parquet: put there {expected}")
    tables = {}
    with quiet():
        for split, found in files.items():  # each on its own: together they are cast to the first one's columns
            try:
                tables[split] = datasets.load_dataset("parquet", data_files={split: found})[split]
            except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
                raise ValueError(f"{_fault(found, error)}: fetch it anew") from None
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
