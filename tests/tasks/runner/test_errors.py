"""What tyro says in a box is one line that begins with ``error:``."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tyro

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
