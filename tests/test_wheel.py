"""What is in the wheel: every module of earlycrop and the marker of types, and nothing of tasks and leaderboards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
PACKAGES = ("earlycrop", "tasks", "leaderboards")


def test_the_wheel_holds_every_module_of_earlycrop_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "records", "*.png", "*.svg")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = (source / "earlycrop").rglob("*.py")
    expected = {path.relative_to(source).as_posix() for path in modules} | {"earlycrop/py.typed"}
    assert "earlycrop/tracing/rules/table.py" in expected
    assert {name.split("/")[0] for name in names}.isdisjoint({"tasks", "leaderboards"})
    assert names == expected
