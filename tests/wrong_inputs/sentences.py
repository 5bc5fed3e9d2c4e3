"""What every error for a wrong input must be: one sentence that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from earlycrop import EarlyCropError

KINDS = (ValueError, TypeError, OSError, EarlyCropError)


def require_sentence(call: Callable[[], Any], fragment: str) -> None:
    """The call raises an error of one line that has the fragment in it, and is no leftover of Python's own."""
    with pytest.raises(KINDS) as raised:
        call()
    text = str(raised.value)
    assert fragment in text, text
    assert "\n" not in text.strip(), text
    assert not text.startswith(("'NoneType'", "unsupported operand", "list index")), text
