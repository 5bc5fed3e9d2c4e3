"""What every test file shares: one thread, a fixed seed, and Ctrl-C that ends what tests start."""

from __future__ import annotations

import signal

import pytest
import torch


def pytest_configure() -> None:
    """A shell's job in the background ignores Ctrl-C, and all that it starts would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
