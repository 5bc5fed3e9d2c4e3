"""Waits are explained, and a hub that cannot be reached is not asked again and again."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Event

import pytest

from tasks.runner import command_line
from tasks.runner.command_line import explained, go_offline_without_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setenv(command_line._OFFLINE, "")
    return address


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub: str, capsys: pytest.CaptureFixture[str]) -> None:
    go_offline_without_hub("owner/data", "bert-base-uncased")
    assert os.environ[command_line._OFFLINE] == "1"
    said = capsys.readouterr().err
    assert said.startswith("127.0.0.1 cannot be reached")
    assert "owner/data and bert-base-uncased can only be read where it was downloaded before" in said
    assert said.count("\n") == 1


def test_a_folder_needs_no_hub(hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_offline_without_hub(str(tmp_path), "", "data/nyu", "./nowhere", "/nowhere/data")
    assert os.environ[command_line._OFFLINE] == ""
    assert capsys.readouterr().err == ""


def test_a_wait_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command_line, "PATIENCE", 0.01)
    said = Event()
    monkeypatch.setattr(command_line, "print", lambda *_, **__: said.set(), raising=False)
    with explained("reading the data of glue"):
        assert said.wait(10)
    monkeypatch.setattr(command_line, "PATIENCE", 1000.0)
    said.clear()
    with explained("reading"):
        pass
    assert not said.is_set()
