"""Errors of a run, each with a sentence that says what to do."""

from __future__ import annotations


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
