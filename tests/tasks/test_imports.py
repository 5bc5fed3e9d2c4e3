"""A program that lacks a package says in a line which, and how to install it."""

from __future__ import annotations

import sys

import pytest

from tasks._imports import report_missing_package


@pytest.mark.parametrize(
    ("module", "install"),
    [
        ("sklearn.datasets", "error: sklearn is not installed: run pip install '.[leaderboards]' in the checkout"),
        ("torch_pruning", "error: torch_pruning is not installed: run pip install '.[bench]' in the checkout"),
    ],
)
def test_a_missing_package_is_named(module: str, install: str, capsys: pytest.CaptureFixture[str]) -> None:
    report_missing_package(ModuleNotFoundError, ModuleNotFoundError(f"No module named '{module}'", name=module), None)
    printed = capsys.readouterr().err
    assert printed.startswith(install)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("error", [ModuleNotFoundError("no", name="tasks.nowhere"), ValueError("something else")])
def test_a_fault_of_the_program_itself_keeps_its_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    report_missing_package(type(error), error, error.__traceback__)
    assert type(error).__name__ in capsys.readouterr().err
    assert sys.excepthook is not report_missing_package  # as pytest is no program of this project
