"""What tyro says in a box is one line that begins with ``error:``, and Ctrl-C ends imports without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from tasks.runner import command_line
from tasks.runner.errors import one_line_errors


@dataclass
class Settings:
    """Settings."""

    sparsity: float = 0.9
    """Share to remove."""
    price: float | None = None
    """Price of an hour."""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sparsty", "1"], "unrecognized options: --sparsty, 1, did you mean --sparsity"),
        (["--sparsity", "much"], "error parsing --sparsity: could not convert string to float: 'much'"),
        (["--price", "much"], "error parsing --price: could not convert string to float: 'much'"),
        (["--sparsity"], "missing value for argument '--sparsity'. Expected 1 values"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors("program"):
        tyro.cli(Settings, args=arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}; see program --help\n"


def test_the_help_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors("program"):
        tyro.cli(Settings, args=["--help"])
    assert not stop.value.code
    assert "Share to remove." in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which libraries a process has loaded")
@pytest.mark.parametrize("program", ["tasks.cartpole", pytest.param("leaderboards", marks=pytest.mark.slow)])
def test_control_c_during_imports_is_no_traceback(program: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", program, "--runs", str(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3])
    while process.poll() is None and "libtorch_python" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--runs", "--branch-from"])
def test_a_path_with_a_nul_is_a_sentence(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main("cartpole", ["--trigger", "1", option, f"{tmp_path}/a\0b"])
    assert left.value.code == 2
    name = option.strip("-").replace("-", "_")
    assert f"error: {name} has a NUL character, which no path may have: choose another one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
