"""Damaged files of every kind: each is read in a process of its own, and refused in a sentence, or read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def require_no_faults(cases: int, first: int) -> None:
    line = [sys.executable, "-m", "tests.fuzz", "--cases", str(cases), "--first", str(first)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert re.search(rf"^{cases} cases, 0 faults", done.stdout, re.MULTILINE), done.stdout


def test_damaged_files_are_refused_or_read() -> None:
    require_no_faults(200, 0)


@pytest.mark.slow
def test_very_many_damaged_files_are_refused_or_read() -> None:
    require_no_faults(2000, 1000)
