"""Energy and CO2 of a training, by codecarbon (the extra ``emissions``), without a network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch

METERS = ("intel_rapl", "intel_power_gadget", "windows_emi")
"""Ways in which codecarbon reads a processor's power from a meter."""
T = TypeVar("T")


class Spent(NamedTuple):
    """What a training has spent."""

    kwh: float
    """Electricity, in kWh."""
    grams: float
    """CO2 and what does as much to the climate, in g, by the mix of the country's electricity."""
    measured: bool
    """Whether the power of the processor, and of a GPU that trains, was read from meters; else it is estimated, from
    the processor's load and rated power. That of memory is always estimated, from its size."""


class Emissions:
    """``with Emissions("DEU", device) as emissions: ...`` counts what this process, its children, and the GPU that it
    trains on spend until :meth:`so_far` is asked. Others on the same GPU, or on a processor with a meter, count too.

    Whatever fails in measuring is told in one warning and stops nothing.

    country: ISO 3166 code of three letters. device: that of the training; a GPU counts only if it is this.

    Raises:
        ValueError: codecarbon is not installed, or knows no such country.

    Source: codecarbon's ``OfflineEmissionsTracker``; the paper's emissions (section 5.1) are codecarbon's, too.
    Deviation: of the training's processes rather than of the whole machine.
    """

    def __init__(self, country: str, device: torch.device | None = None) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.input import DataSource
        except ImportError:
            raise ValueError(
                "emissions are measured by codecarbon, which is not here: pip install 'earlycrop[emissions]'"
            ) from None
        if country not in DataSource().get_global_energy_mix_data():  # type: ignore[no-untyped-call]
            raise ValueError(f"codecarbon knows no country '{country}': take an ISO code of three letters, such as DEU")
        self.country, self._kind = country, OfflineEmissionsTracker
        self._device = torch.device("cpu") if device is None else device
        self._tracker: Any = None
        self._told = _Told()

    def __enter__(self) -> "Emissions":
        self._tracker = self._tried(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is not None:
            self._tried(self._tracker.stop)
            self._tracker = None

    def so_far(self) -> Spent | None:
        """What was spent since it began; None where that cannot be told."""
        return None if self._tracker is None else self._tried(self._read)

    def _begin(self) -> Any:
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it has read its log_level
        gpus = [f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"] if self._device.type == "cuda" else []
        tracker = self._kind(
            country_iso_code=self.country, tracking_mode="process", gpu_ids=gpus, allow_multiple_runs=True,
            output_methods=[], log_level="critical", output_handlers=[self._told],
        )  # fmt: skip
        tracker.start()
        if gpus and not any(type(part).__name__ == "GPU" and part.gpu_ids for part in tracker._hardware):
            tracker.stop()
            raise RuntimeError("it does not see the GPU that trains")
        return tracker

    def _read(self) -> Spent:
        self._told.total = None
        self._tracker.flush()
        total = self._told.total
        if total is None:
            raise RuntimeError("it tells nothing")
        return Spent(total.energy_consumed, 1000 * total.emissions, _metered(self._tracker))

    def _tried(self, what: Callable[[], T]) -> T | None:
        try:
            return what()
        except Exception as error:  # whatever it is: a training is worth more than knowing what it has emitted
            with suppress(Exception):
                self._tracker.stop()
            self._tracker = None
            warnings.warn(f"emissions are not measured: codecarbon failed ({error!r})", stacklevel=3)
            return None


class _Told:
    """An output of codecarbon's tracker, which keeps what it was told last."""

    total: Any = None

    def out(self, total: Any, delta: Any) -> None:
        self.total = total

    def live_out(self, total: Any, delta: Any) -> None:
        """It is asked, and needs not be told."""

    def task_out(self, data: Any, experiment_name: str) -> None:
        """There are no tasks."""

    def exit(self) -> None:
        """There is nothing to close."""


def _metered(tracker: Any) -> bool:
    """Whether everything but memory has a meter. Where the tracker does not say so, it is estimated."""
    parts = [part for part in getattr(tracker, "_hardware", []) if type(part).__name__ != "RAM"]
    modes = [getattr(part, "_mode", None) for part in parts if type(part).__name__ == "CPU"]
    return bool(parts) and all(mode in METERS for mode in modes)
