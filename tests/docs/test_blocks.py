"""Every code block of README and docs is run, and every command of theirs is one that its program understands."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser
from torch.utils.data import DataLoader

import tasks
from earlycrop.report.__main__ import _parse_arguments
from earlycrop.utils.torchvision_compat import load_torchvision
from leaderboards.commands import Check, Collect, Page, Show, Sweep, Tables, Trigger
from tasks.runner.arguments import parse
from tests.integrations.callbacks import Small, points
from tests.integrations.lightning_runs import QUIET

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("docs/**/*.md"))
WITH_PYTHON = [path for path in (ROOT / "README.md", *FILES) if "```python" in path.read_text()]
EXAMPLES = {"docs/guides/transformers.md": "hf_trainer", "docs/guides/lightning.md": "lightning_module"}
"""Page -> the example that its blocks continue from."""
SLOW = {"README.md", *EXAMPLES}
"""Pages whose blocks take more than three seconds."""
LANGUAGES = re.compile(r"^ *```(.*)$", re.MULTILINE)
CONTINUES = "The code continues from the first block of the [tutorial](../tutorial.md)."
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
pytestmark = QUIET
LIGHTNING = {"max_epochs": 30, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def document(path: Path) -> Document:
    return Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(path)


def namespace(path: Path, folder: Path) -> dict[str, Any]:
    """What the blocks of a page find: what the tutorial's first block defines, or what README takes for given."""
    if CONTINUES in path.read_text():
        first, *_ = tutorial = document(ROOT / "docs" / "tutorial.md").examples()
        assert tutorial
        first.evaluate()
        return first.namespace
    if page_id(path) in EXAMPLES:
        load_torchvision()
        return runpy.run_path(str(ROOT / "examples" / f"{EXAMPLES[page_id(path)]}.py"))
    if path.name == "README.md":
        return readme_names(folder)
    return {}


def readme_names(folder: Path) -> dict[str, Any]:
    """A model, its arguments and data for README's block of a Trainer, and a module for that of Lightning."""
    from tests.integrations.callbacks import transformers
    from tests.integrations.lightning_runs import lit_small

    lightning = importlib.import_module("lightning")

    class Lightning:
        Trainer = staticmethod(lambda **given: lightning.Trainer(**LIGHTNING | given, default_root_dir=folder))

    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=3, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    return {
        "Trainer": transformers.Trainer, "arguments": arguments, "data": points(), "lightning": Lightning,
        "loader": DataLoader(points(), 8), "module": lit_small(), "trainer_model": Small(),
    }  # fmt: skip


def pages() -> Iterator[Any]:
    for path in WITH_PYTHON:
        marks = [pytest.mark.slow] * (page_id(path) in SLOW)
        yield pytest.param(path, id=page_id(path), marks=marks)


@pytest.mark.parametrize("path", list(pages()))
def test_the_python_blocks_of_a_page_run(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = namespace(path, tmp_path)
    blocks = list(document(path).examples())
    assert blocks
    for block in blocks:
        if path.name == "README.md" and "Trainer(model, arguments" in str(block.parsed):
            names["model"] = names["trainer_model"]
        block.namespace.update(names)
        block.evaluate()
        if path.name == "README.md" and "centres" in str(block.parsed):
            check_output(capsys.readouterr().out)


def check_output(printed: str) -> None:
    """README shows what its quickstart prints, but for what differs from machine to machine."""
    shown = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    assert [re.sub(r"[\d.,e%+-]+", "#", line) for line in printed.splitlines()] == [
        re.sub(r"[\d.,e%+-]+", "#", line) for line in shown[1].splitlines()
    ]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *FILES], ids=page_id)
def test_a_page_has_no_block_that_nothing_runs(path: Path) -> None:
    """Blocks are python, which is run, commands, which are understood, what a program prints, and Sphinx's own."""
    text = path.read_text()
    assert not re.search(r"\n\n {4}\S", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for opening in LANGUAGES.findall(text)[::2]:
        assert opening in ("python", "console", "text") or opening.startswith("{"), opening


def test_readme_has_the_quickstart_of_the_examples() -> None:
    code = (ROOT / "examples" / "quickstart.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def commands() -> Iterator[Any]:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *FILES):
        for block in CONSOLE.findall(path.read_text()):
            for line in block.splitlines():
                yield pytest.param(line, id=f"{page_id(path)}: {line}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", line)
        known = (ROOT / "pyproject.toml").read_text()
        assert all(re.search(rf"^{extra} = \[", known, re.MULTILINE) for names in extras for extra in names.split(","))
    else:
        module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        understand(module, arguments)


def understand(module: str, arguments: list[str]) -> None:
    """Parse a command line as its program does; its own error fails the test."""
    if module == "leaderboards":
        kinds = {kind.__name__.lower(): kind for kind in (Collect, Show, Check, Tables, Page, Trigger, Sweep)}
        name, rest = (arguments[0], arguments[1:]) if arguments else ("collect", [])
        tyro.cli(kinds[name], args=rest)
    elif module == "earlycrop.report":
        assert _parse_arguments(arguments).target
    elif module.startswith("tasks."):
        task = module.removeprefix("tasks.")
        assert task in tasks.names()
        if arguments != ["--help"]:
            assert parse(importlib.import_module(module), arguments)
    else:
        assert importlib.util.find_spec(module) is not None
