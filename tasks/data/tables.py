"""The tables of a data set's splits, as ``datasets`` reads them: from parquet files in a folder, or from the hub."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.runner.errors import first_line
from tasks.runner.files import is_local, reading, require_size

Tables = Mapping[str, Any]
"""Split -> a ``datasets.Dataset``."""
PARQUET_RATIO = 200
"""How many times its own size a parquet file may take when it is read: images take once, texts up to twenty times."""
SHARD = re.compile(r"-\d+-of-(\d+)(?=\.parquet)")


def read(data: str, splits: Mapping[str, Sequence[str]], expected: str, configuration: str = "") -> Tables:
    """Return the tables of a folder of parquet files, or of a data set on the hub.

    Args:
        data: The folder, or owner/name or owner/name:configuration on the hub.
        splits: What each split's files may be called.
        expected: What a folder must hold, for the errors.
        configuration: The data set's configuration on the hub, in place of that in ``data``.

    Raises:
        ValueError: There is no such data set, or a file is missing or cannot be read.
    """
    if Path(data).is_dir():
        return _read_folder(Path(data), splits, expected)
    if is_local(data):
        raise ValueError(f"there is no folder {data}: --data takes a data set on the hub, or a folder with {expected}")
    return _read_hub(data, expected, configuration)


def split_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return a split's parquet files, in the folder or one below it, as the hub has ``data`` or a configuration's.

    They are NAME.parquet, or NAME-00000-of-0000N.parquet and so on, or, where there are none, NAME/*.parquet.

    Raises:
        ValueError: There are several such sets of files, or not all shards of one.
    """
    forms = [f"{name}{ending}" for name in names for ending in (".parquet", "-[0-9]*-of-[0-9]*.parquet")]
    files = sorted(file for form in forms for file in folder.rglob(form))
    if not files:
        files = sorted(file for name in names for file in folder.rglob(f"{name}/[!.]*.parquet"))
        sets = {str(file.parent) for file in files}
    else:
        sets = {str(file.with_name(SHARD.sub(r"-of-\1", file.name))) for file in files}
    if len(sets) > 1:
        raise ValueError(f"{' and '.join(sorted(sets))} are all {names[0]} splits: leave one of them in {folder}")
    if files and (shard := SHARD.search(files[0].name)) and len(files) < int(shard[1]):
        raise ValueError(f"{folder} has {len(files)} of the {int(shard[1])} files of {names[0]}: fetch them all")
    return files


def content(data: str, splits: Mapping[str, Sequence[str]]) -> str:
    """Return a digest of all that a folder's parquet files hold, and nothing for a data set on the hub."""
    if not Path(data).is_dir():
        return ""
    return " ".join(file_digest(file) for names in splits.values() for file in split_files(Path(data), names))


def file_digest(file: Path) -> str:
    """Return a digest of what a file holds."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _read_folder(folder: Path, splits: Mapping[str, Sequence[str]], expected: str) -> Tables:
    import datasets

    files = {split: split_files(folder, names) for split, names in splits.items()}
    if missing := [split for split in splits if not files[split]]:
        raise ValueError(f"{folder} has no {missing[0]}.parquet and no shards of it: put there {expected}")
    with quiet():
        return {split: datasets.concatenate_datasets([_read_file(file) for file in files[split]]) for split in splits}


def _read_file(file: Path) -> Any:
    """Return the table of a parquet file.

    It is converted to Arrow once, and kept by the digest of its content: a file that takes another's place may have the
    same path, size and time of modification.
    """
    import datasets
    from pyarrow.parquet import read_metadata

    with reading(file):
        metadata = read_metadata(file)
        if not metadata.num_rows:
            raise ValueError("it has no rows")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        asked = max(sum(group.total_byte_size for group in groups), 8 * metadata.num_rows)
        require_size(asked, file.stat().st_size, PARQUET_RATIO)
        return datasets.Dataset.from_parquet(glob.escape(str(file)), config_name=file_digest(file))


def _read_hub(data: str, expected: str, configuration: str) -> Tables:
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


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off the bars of loading, and the logging of what is raised anyway."""
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


def texts(where: str, table: Any, name: str) -> list[str]:
    """Return the rows of a column of texts; raise ValueError, naming the table ``where``, for a row that is none."""
    try:
        rows = list(table[name])
    except UnicodeDecodeError:
        raise ValueError(f"{where}: a row of {name} is not UTF-8: mend or remove it") from None
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise ValueError(f"{where}: {name} of row {row} is {text!r}, and no text: mend or remove that row")
    return rows
