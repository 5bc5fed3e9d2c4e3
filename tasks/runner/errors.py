"""What a person is told who gave something wrong."""

from __future__ import annotations


def require(holds: bool, message: str) -> None:
    """Raise a ValueError with that message where something does not hold."""
    if not holds:
        raise ValueError(message)


def first_line(error: BaseException) -> str:
    """What an exception says, in a line: its own first one, or what it is where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". :")
