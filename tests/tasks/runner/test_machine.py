"""What is set for the whole process is so for the length of a run, and as it was afterwards."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import cartpole
from tasks.runner import command_line, distributed
from tests.tasks.runs import command

NAME = "CUBLAS_WORKSPACE_CONFIG"


def settings() -> tuple[Any, ...]:
    return (
        dict(os.environ), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_num_threads(), list(warnings.filters),
    )  # fmt: skip


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.usefixtures("without_type_checks")
def test_a_run_leaves_no_setting_behind(
    deterministic: bool, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    torch.use_deterministic_algorithms(not deterministic, warn_only=True)
    seen = []

    def evaluate(self: Any, model: Any) -> float:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, NAME in os.environ))
        return float("nan" if fails else 1)

    monkeypatch.setattr(cartpole.A2C, "evaluate", evaluate)
    arguments = command(tmp_path, "--method", "dense", "--record", *["--deterministic"] * deterministic)
    before = settings()
    try:
        if fails:
            with pytest.raises(SystemExit):
                command_line.main("cartpole", arguments)
        else:
            command_line.main("cartpole", arguments)
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [(deterministic, not deterministic, deterministic)]


def test_warnings_are_back_where_a_process_has_left_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    before = list(warnings.filters)
    distributed.join("cpu")
    warnings.warn("not told", stacklevel=1)
    assert warnings.filters != before
    distributed.leave()
    assert warnings.filters == before
