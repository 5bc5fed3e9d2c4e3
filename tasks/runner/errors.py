"""Errors of a run and of its command line, each a sentence that says what is wrong and what to do."""

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


def require(holds: bool, message: str) -> None:
    """Raise a ValueError with that message where something does not hold."""
    if not holds:
        raise ValueError(message)


def first_line(error: BaseException) -> str:
    """What an exception says, in a line: its own first one, or what it is where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". :")


class RunError(RuntimeError):
    """A run cannot go on as it is; the sentence says what to do."""


class LostError(RunError):
    """A run has lost what it needs, such as a process, by no fault of its own: the same command goes on."""


class DivergedError(RunError):
    """A number that must be finite no longer is."""

    def __init__(self, name: str, value: float, epoch: int, step: int | None = None) -> None:
        where = f"after epoch {epoch}" if step is None else f"in epoch {epoch}, step {step}"
        super().__init__(
            f"the {name} is {value} {where}: training has diverged. The last checkpoint is kept; a lower learning rate "
            "is the usual way out"
        )
        self.failure = {"epoch": epoch, **({} if step is None else {"step": step}), name: str(value)}


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


def to_sentence(box: str) -> str:
    """Return the first paragraph of a message of tyro's, with the option that it thinks was meant."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    title = 1 if box.startswith("╭") else 2  # a terminal without such characters has a line below the title
    paragraph = takewhile(lambda line: not line or line.strip("─-╰╯"), lines[title:])
    text = " ".join(" ".join(paragraph).split()).rstrip(".")
    if several := _SEVERAL.search(text):
        text = text[: several.start()] + several["last"]
    if meant := re.search(r"Perhaps you meant:[\s│]*(--[\w-]+)", box):
        text += f", did you mean {meant[1]}"
    return text[:1].lower() + text[1:]
