"""Skip the tests of this folder where there is no GPU, neither a simulated one nor a real one that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run the tests of GPUs on the machine's own")


def _why_skipped(config: pytest.Config) -> str | None:
    if config.getoption("--real", default=False):
        return None if torch.accelerator.is_available() else "there is no GPU here"
    plugin = sys.modules.get("tests.simulated_cuda.plugin")
    return "`make test-device` runs it with a simulated GPU" if plugin is None else plugin.UNAVAILABLE


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    if (reason := _why_skipped(config)) is not None:
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    """The GPU."""
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return accelerator


@pytest.fixture
def default_device(device: torch.device) -> Iterator[torch.device]:
    """The GPU, on which new tensors are made unless another device is named."""
    torch.set_default_device(device)
    yield device
    torch.set_default_device(None)
