"""Ctrl-C while a command imports what it needs, which takes seconds: it ends with exit code 130, and no traceback.

This is imported first, by ``python -m tasks...`` and ``python -m leaderboards``. A library that imports tasks keeps its
handler.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process, which has written nothing yet. An exception within an import may be taken for another one."""
    os._exit(130)


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: a command that runs can be resumed, and says how."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)  # python -m names itself so until the package has been imported
