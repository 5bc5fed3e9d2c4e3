"""Energy and emissions by the real codecarbon, and runs where it fails or that are resumed."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest
from codecarbon import OfflineEmissionsTracker

import earlycrop
from earlycrop.emissions import EmissionsMeter, EmissionsReading
from tasks import cartpole
from tasks.runner import arguments, command_line
from tests.tasks.runs import TINY, command, folder, until


def busy(seconds: float) -> None:
    start = process_time()
    while process_time() - start < seconds:
        sum(range(1000))


def test_work_takes_energy_and_the_country_decides_what_that_emits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spent = {}
    for country in ("DEU", "FRA"):
        with EmissionsMeter(country) as meter:
            busy(0.3)
            first = meter.so_far()
            busy(0.3)
            spent[country] = meter.so_far()
        assert first is not None
        assert 0 < first.kwh < spent[country].kwh
        assert 0 < first.grams < spent[country].grams
        assert spent[country].kwh < 1e-3
        assert meter.so_far() is None  # it is over
    grams = {country: s.grams / s.kwh for country, s in spent.items()}
    assert 200 < grams["DEU"] < 700  # g per kWh
    assert grams["FRA"] < grams["DEU"] / 3
    assert not list(tmp_path.iterdir())


def test_a_country_that_is_none_and_a_missing_codecarbon_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for country in ("GER", "de", "Germany"):
        with pytest.raises(ValueError, match=f"codecarbon knows no country '{country}': use an ISO code of three"):
            EmissionsMeter(country)
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(ValueError, match=r"pip install 'earlycrop\[emissions\]'"):
        EmissionsMeter("DEU")


@pytest.mark.parametrize("method", ["start", "flush"])
def test_a_failure_is_one_warning_and_no_number(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no sensor")

    monkeypatch.setattr(OfflineEmissionsTracker, method, fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with EmissionsMeter("DEU") as meter:
            assert meter.so_far() is None
            assert meter.so_far() is None
    (warning,) = [w for w in caught if "codecarbon" in str(w.message)]
    assert "emissions are not measured: codecarbon failed (OSError('no sensor'))" in str(warning.message)


def run(runs: Path, *more: str) -> Any:
    return command_line.main("cartpole", command(runs, "--method", "dense", *more))


def test_a_run_tells_what_it_has_spent_and_is_the_same_run(tmp_path: Path) -> None:
    start = perf_counter()
    result = run(tmp_path / "with", "--country", "FRA")
    seconds = perf_counter() - start
    assert result.emissions_country == "FRA"
    assert result.emissions_measured in (True, False)
    assert 0 < result.energy_kwh < seconds * 2000 / 3.6e6  # less than 2 kW
    assert 0 < result.emissions_g < 100 * result.energy_kwh
    without = run(tmp_path / "without")
    assert (without.energy_kwh, without.emissions_g, without.emissions_country) == (None, None, None)
    assert without.run == result.run
    assert without.value == result.value


def _state(runs: Path) -> dict[str, Any]:
    (last,) = (folder(runs) / "checkpoint").iterdir()
    state: dict[str, Any] = earlycrop.load_state(last / "state.safetensors")
    return state


def test_a_resumed_run_has_spent_what_it_had_before(tmp_path: Path) -> None:
    options = replace(arguments.parse(cartpole, [*TINY, "--method", "dense"]), country="DEU")
    with pytest.raises(KeyboardInterrupt):
        until(4, "cartpole", options, tmp_path)
    checkpoint = _state(tmp_path)
    assert checkpoint["epoch"] == 4
    assert checkpoint["spent"].pop("country") == "DEU"
    before = EmissionsReading(**checkpoint["spent"])
    assert before.kwh > 0
    result, _ = until(99, "cartpole", options, tmp_path)
    assert result.energy_kwh is not None
    assert result.energy_kwh > before.kwh
    with pytest.raises(KeyboardInterrupt):
        until(4, "cartpole", options, tmp_path / "elsewhere")
    result, _ = until(99, "cartpole", replace(options, country="FRA"), tmp_path / "elsewhere")
    assert result.emissions_g is None  # of two countries
    unknown = replace(options, seed=1, country="")
    with pytest.raises(KeyboardInterrupt):
        until(4, "cartpole", unknown, tmp_path / "unknown")
    result, _ = until(99, "cartpole", replace(unknown, country="DEU"), tmp_path / "unknown")
    assert result.energy_kwh is None  # a part of it was not measured


def test_a_run_ends_well_where_measuring_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OfflineEmissionsTracker, "flush", lambda _: 1 / 0)
    with pytest.warns(UserWarning, match="emissions are not measured"):
        result = run(tmp_path, "--country", "DEU")
    assert result.energy_kwh is None
    assert result.emissions_country is None


def test_a_wrong_country_is_said_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "runs", "--country", "Narnia")
    assert stop.value.code == 2
    assert "codecarbon knows no country 'Narnia'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
