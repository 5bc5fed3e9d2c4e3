"""Energy and CO2 emissions of a training, measured by codecarbon (the extra ``emissions``) without network access."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import torch

from earlycrop.utils.caller import warn

MEASURED_MODES = ("intel_rapl", "intel_power_gadget", "windows_emi")
"""The ways in which codecarbon reads the power of a processor from a meter."""
T = TypeVar("T")


class EmissionsReading(NamedTuple):
    """The energy and emissions of a training so far."""

    kwh: float
    """Electricity, in kWh."""
    grams: float
    """Emissions in g of CO2 equivalents, by the country's mix of electricity."""
    measured: bool
    """Whether the power of the processor, and of a GPU that trains, was read from meters. Otherwise it is estimated
    from the processor's load and rated power. The power of memory is always estimated, from its size."""


class EmissionsMeter:
    """Measures the energy and emissions of this process, of its children, and of the GPU that it trains on.

    It measures while it is entered: ``with EmissionsMeter("DEU", device) as meter: ...; meter.so_far()``. Other
    programs count as well if they use the same GPU, or a processor with a meter. A failure gives one warning, and the
    training continues.

    Source: codecarbon's ``OfflineEmissionsTracker``, which the paper uses as well (section 5.1). Deviation: the
    processes of the training are measured, not all of the machine.

    Args:
        country: ISO 3166 code of three letters.
        device: Device of the training. No other GPU is measured.

    Raises:
        ValueError: codecarbon is not installed, or does not know the country.
    """

    def __init__(self, country: str, device: torch.device | None = None) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.input import DataSource
        except ImportError:
            raise ValueError(
                "emissions are measured by codecarbon, which is not installed: pip install 'earlycrop[emissions]'"
            ) from None
        if country not in DataSource().get_global_energy_mix_data():  # type: ignore[no-untyped-call]
            raise ValueError(f"codecarbon knows no country '{country}': use an ISO code of three letters, such as DEU")
        self.country, self._tracker_class = country, OfflineEmissionsTracker
        self._device = torch.device("cpu") if device is None else device
        self._tracker: Any = None

    def __enter__(self) -> "EmissionsMeter":
        self._tracker = self._warn_on_failure(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._warn_on_failure(self._tracker.stop)
            self._tracker = None

    def so_far(self) -> EmissionsReading | None:
        """Return the energy and emissions since the meter was entered.

        Returns:
            The reading, or None if the measurement has failed or has ended.
        """
        return None if self._tracker is None else self._warn_on_failure(self._read)

    def _start(self) -> Any:
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it logs before it reads its log_level
        gpus = [f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"] if self._device.type == "cuda" else []
        tracker = self._tracker_class(
            country_iso_code=self.country,
            tracking_mode="process",
            gpu_ids=gpus,
            allow_multiple_runs=True,
            output_methods=[],
            log_level="critical",
        )
        tracker.start()
        if gpus and not any(type(part).__name__ == "GPU" and part.gpu_ids for part in tracker._hardware):
            tracker.stop()
            raise RuntimeError("it does not see the GPU of the training")
        return tracker

    def _read(self) -> EmissionsReading:
        grams = 1000 * self._tracker.flush()
        return EmissionsReading(self._tracker._total_energy.kWh, grams, _is_measured(self._tracker))

    def _warn_on_failure(self, action: Callable[[], T]) -> T | None:
        """Call a function of the tracker. An error ends the measurement with a warning."""
        try:
            return action()
        except Exception as error:  # any error: the training is worth more than its emissions
            with suppress(Exception):
                self._tracker.stop()
            self._tracker = None
            warn(f"emissions are not measured: codecarbon failed ({error!r})")
            return None


def _is_measured(tracker: Any) -> bool:
    """Whether everything but memory has a meter. A tracker that does not say so estimates."""
    parts = [part for part in getattr(tracker, "_hardware", []) if type(part).__name__ != "RAM"]
    modes = [getattr(part, "_mode", None) for part in parts if type(part).__name__ == "CPU"]
    return bool(parts) and all(mode in MEASURED_MODES for mode in modes)
