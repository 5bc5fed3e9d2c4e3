"""What is in the wheel: every module of the packages, the marker of types, and the data that is read at run time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
PACKAGES = ("earlycrop", "tasks", "leaderboards")
DATA = ("leaderboards/paper", "leaderboards/assets")


def test_the_wheel_holds_every_module_and_its_data(tmp_path: Path) -> None:
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
    modules = {path for package in PACKAGES for path in (source / package).rglob("*.py")}
    data = {path for folder in DATA for path in (source / folder).rglob("*") if path.is_file()}
    expected = {path.relative_to(source).as_posix() for path in modules | data} | {"earlycrop/py.typed"}
    assert "earlycrop/tracing/rules/table.py" in expected
    assert names == expected
