"""The benchmark of devices runs on the device."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import device as benchmark


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_the_benchmark_of_devices(device: torch.device, tmp_path: Path) -> None:
    file = tmp_path / "device.csv"
    benchmark.main(dataclasses.replace(benchmark.QUICK, device=device.type, out=file, networks=("lstm",)))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["kind"] for row in rows] == ["dense", "cut", "masked"]
    assert {row["device"] for row in rows} == {torch.get_device_module(device).get_device_name(device)}
    assert all(float(row["steps_a_second"]) > 0 and float(row["step_mb"]) > 0 for row in rows)
