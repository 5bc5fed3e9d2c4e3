"""What is wrong with a command line, in one line that begins with ``error:``."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import takewhile

BAD_INPUT = 2
"""Exit code."""
_SEVERAL = re.compile(r"no type matching .* Got errors:.*>: (?P<last>.+)$")
"""What tyro says of a value that is neither of several types; the last one is the one that was meant."""


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Print what tyro says in a box as one line, and exit with 2. The help is printed as it is.

    Args:
        program: How the program is called, such as ``python -m tasks.digits``.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        print(f"error: {to_sentence(printed.getvalue())}; see {program} --help", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


def _is_rule(line: str) -> bool:
    return bool(line) and not line.strip("─-╰╯")


def to_sentence(box: str) -> str:
    """Return the first paragraph of a message of tyro's, with the option that it thinks was meant."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    title = 1 if box.startswith("╭") else 2  # a terminal without such characters has a line below the title
    text = " ".join(" ".join(takewhile(lambda line: not _is_rule(line), lines[title:])).split()).rstrip(".")
    if several := _SEVERAL.search(text):
        text = text[: several.start()] + several["last"]
    if meant := re.search(r"Perhaps you meant:[\s│]*(--[\w-]+)", box):
        text += f", did you mean {meant[1]}"
    return text[:1].lower() + text[1:]
