"""Read files of JSON that may be anything: what is wrong with one is a ValueError that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
        text: The text.
        where: The file, for the error.
        line: The number of its first line.
        options: Of ``json.loads``.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}:{line + error.lineno - 1}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets in brackets
        raise ValueError(f"{where}:{line}: not JSON that can be read ({error})") from None


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a file; raise ValueError, naming the file, if there is none."""
    value = parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not an object of names and values")
    return value
