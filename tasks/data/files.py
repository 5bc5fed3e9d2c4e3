"""Read files that others have made: what is wrong with one is told in a sentence that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runner.errors import first_line

ALWAYS_ALLOWED = 2**30
"""Bytes that any file may take when it is unpacked."""


@contextmanager
def reading(file: Path | str, advice: str = "fetch it anew") -> Iterator[None]:
    """Turn whatever a library raises while it reads a file into a ValueError that names the file.

    Libraries raise errors of many types for damaged files, so all are taken. A path that is no file is not opened: a
    pipe would be waited for.

    Args:
        file: The file.
        advice: What to do.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        if isinstance(file, Path):
            existing_file(file)
        yield
    except MemoryError:
        raise ValueError(f"{file} cannot be read (it needs more memory than there is): {advice}") from None
    except Exception as error:
        raise ValueError(f"{file} cannot be read ({first_line(error.__cause__ or error)}): {advice}") from None


def require_size(asked: int, stored: int, ratio: int) -> None:
    """Raise ValueError where a file would take far more memory than it has bytes, as one made to exhaust memory does.

    Args:
        asked: The bytes that the file says it unpacks to.
        stored: The bytes that it has.
        ratio: How many times as many it may unpack to.
    """
    allowed = max(ALWAYS_ALLOWED, ratio * stored)
    if asked > allowed:
        raise ValueError(f"its {stored:,} bytes would unpack to {asked:,}, and {allowed:,} are allowed")


def existing_file(path: Path | str) -> Path:
    """Return a path; raise ValueError if there is no file."""
    if not Path(path).is_file():
        raise ValueError("it is no file" if Path(path).exists() else "there is no such file")
    return Path(path)
