"""What a run has spent in electricity and emissions: in all its processes, and since its start wherever it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch

import earlycrop.emissions
from earlycrop.emissions import EmissionsReading
from tasks.runner import distributed


class EmissionsMeter:
    """Counts while it is entered, by the electricity of ``country``; with an empty one, nothing.

    Energy is that from when it is entered, models' building and validation included.

    Raises:
        ValueError: it cannot be measured by that country; see :class:`earlycrop.emissions.EmissionsMeter`.
    """

    def __init__(self, country: str, device: torch.device) -> None:
        self._country, self._emissions = country, None
        if country:
            self._emissions = earlycrop.emissions.EmissionsMeter(country, device)
        self._before: EmissionsReading | None = EmissionsReading(0.0, 0.0, True)

    def __enter__(self) -> Self:
        if self._emissions is not None:
            self._emissions.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._emissions is not None:
            self._emissions.__exit__(kind, error, trace)

    def go_on(self, spent: Mapping[str, Any] | None) -> None:
        """Start from what was spent before a stop, as ``state`` told it then; by another country it is not known."""
        if spent is None or spent.get("country") != self._country:
            self._before = None
        else:
            self._before = EmissionsReading(*(spent[name] for name in EmissionsReading._fields))

    def state(self) -> dict[str, Any] | None:
        """``so_far``, for a checkpoint."""
        spent = self.so_far()
        return None if spent is None else {**spent._asdict(), "country": self._country}

    def so_far(self) -> EmissionsReading | None:
        """What the run has spent; None where it is not measured, or a part of it was not."""
        if self._emissions is None:
            return None
        parts = [self._before, *distributed.all_gather(self._emissions.so_far())]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return EmissionsReading(sum(p.kwh for p in known), sum(p.grams for p in known), all(p.measured for p in known))
