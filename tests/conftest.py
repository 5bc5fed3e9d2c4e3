"""What every test file shares: one thread, a fixed seed, and Ctrl-C that ends what tests start.

The folders mirror the packages. ``tests.toy`` has the toy networks, losses and batches; ``tests.networks`` networks
whose graphs are known, and random ones; ``tests.oracles`` the masked dense network that a cut is compared with.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from tests import type_checks

type_checks.install()


def pytest_configure() -> None:
    """A shell's job in the background ignores Ctrl-C, and all that it starts would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the garbage collector skip the modules and tests, which stay to the end: it goes through all it knows."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class _FailingRule(logging.Handler):
    """A rule of the tracer that fails is an error in tests."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            raise AssertionError(record.getMessage())


@pytest.fixture(autouse=True)
def _no_rule_fails() -> Iterator[None]:
    handler, logger = _FailingRule(), logging.getLogger("earlycrop.tracing.rules")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Types are not checked as functions are called: many networks take up to three times as long with it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
