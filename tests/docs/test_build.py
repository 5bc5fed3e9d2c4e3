"""The documentation builds without a warning, which a broken link is, and its pictures are made by their script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PICTURES = sorted([*ROOT.glob("docs/pictures/*.png"), *ROOT.glob("leaderboards/**/*.png")])
HEIGHT = 1600


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=ROOT, timeout=600)


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    done = run("-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "api.html").read_text()
    assert "class" in page
    assert "earlycrop.Pruner" in page


@pytest.mark.slow
def test_a_broken_link_fails(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser']\n")
    (source / "index.md").write_text("# Title\n\n[gone](gone.md)\n")
    done = run("-m", "sphinx", "--fail-on-warning", "--quiet", str(source), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "gone.md" in done.stderr


@pytest.mark.slow
def test_the_pictures_are_made_by_their_script(tmp_path: Path) -> None:
    done = run("docs/pictures/make.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.glob("*.png")}
    committed = {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert committed - made == {"page-light.png", "page-dark.png", "page-phone.png"}
    assert made <= committed


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_fits_a_page(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.height <= HEIGHT
