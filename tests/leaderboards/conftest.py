"""What several files of the leaderboards' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from leaderboards import build, consistency
from tests.leaderboards.results import ALL, write_run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six finished runs, whose ids are short; pictures, which take most of the time, are drawn only where
    they are tested."""
    monkeypatch.setattr(build, "draw", lambda _, stem: stem.with_suffix(".png"))
    monkeypatch.setattr(consistency, "identity", lambda config, version: f"{config['method'][0]}{config['seed']}")
    for result in ALL:
        write_run(tmp_path / "runs", result)
    return tmp_path


@pytest.fixture
def empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty files for pictures: drawing takes most of the time of tests that look at tables only."""
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda self: None)
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: Path(path).write_bytes(b""))
