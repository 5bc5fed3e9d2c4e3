"""Files: written so that nothing is lost, and read so that whatever is wrong with one is a ValueError that names it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.runner.errors import first_line

ALWAYS_ALLOWED = 2**30
"""Bytes that any file may take when it is unpacked."""


def is_local(data: str) -> bool:
    """Return whether ``data`` is meant as a place on this machine, be it there or not."""
    return Path(data).exists() or data.startswith((".", "/", "~")) or Path(data).parts[:1] == ("data",)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends, and vanishes when the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Put a text file in place."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_text(path: Path) -> str:
    """Return a file's text; raise ValueError if it is missing, no file (a pipe would be waited for) or no text."""
    if not path.is_file():
        raise ValueError(f"{path}: {'no file' if path.exists() else 'missing'}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON (not even text)") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def parse(text: str, where: str, line: int = 1, **options: Any) -> Any:
    """Return what a text of JSON holds; raise ValueError, with ``where`` and the line, if it is not JSON.

    Args:
        line: The number of its first line in the file ``where``.
        options: Of ``json.loads``.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}:{line + error.lineno - 1}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets in brackets
        raise ValueError(f"{where}:{line}: not JSON that can be read ({error})") from None


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON."""
    value = parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not an object of names and values")
    return value


@contextmanager
def reading(file: Path | str, advice: str = "fetch it anew") -> Iterator[None]:
    """Turn whatever a library raises while it reads a file into a ValueError that names the file and gives advice.

    Libraries raise errors of many types for damaged files, so all are taken. A path that is no file is not opened: a
    pipe would be waited for.
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
