"""Tables of a data set's splits: of parquet files in a folder, or of the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    quiet = not datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        tables: Tables = datasets.load_dataset("parquet", data_files=files)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        told = str(error.__cause__ or error).splitlines()[0].rstrip(". ")
        raise ValueError(f"the parquet files in {folder} cannot be read ({told}): fetch them anew") from None
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return tables


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
        told = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        raise ValueError(
            f"the data set {data} cannot be read from the hub ({told}): --data takes owner/name or "
            f"owner/name:configuration, or a folder with {expected}"
        ) from None
    return tables
