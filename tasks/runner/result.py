"""What a finished run says of itself: the one schema of ``result.json`` and of the leaderboards' columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from tasks.runner.files import parse


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run, flat; raises ValueError, naming the field, when one does not have its declared type."""

    run: str
    """The run's id, which is also the name of its folder."""
    task: str
    """The task module's name, such as ``cartpole``."""
    dataset: str
    """The data set's or environment's name, as its own community writes it."""
    preset: str
    """Name of the setting that the run's options started from."""
    network: str
    """The network's name, such as ``mlp-128-128-128``."""
    method: str
    """The pruning method, a row of ``earlycrop.METHODS``."""
    structured: bool
    """Whether whole nodes are cut (False for single weights, and for dense)."""
    sparsity_of: str
    """What the asked sparsity is a share of: weights, nodes, macs, bytes or time."""
    sparsity_asked: float | None
    """Share to remove, 0 to 1; None for dense."""
    weight_sparsity: float
    """Achieved: share of the dense network's weight-matrix entries that are zero or gone, 0 to 1."""
    node_sparsity: float
    """Achieved: share of the dense network's nodes that are gone, output layer excluded, 0 to 1."""
    metric: str
    """What ``value`` measures, such as ``return``."""
    value: float
    """The final metric."""
    higher_is_better: bool
    """Whether a larger ``value`` is a better one."""
    split: str
    """What ``value`` was measured on, such as ``test`` or ``100 episodes``."""
    epochs: int
    """The budget of training epochs, those before the cut included."""
    pruned_epoch: int | None
    """Epochs that were over when the last cut was made; 0 is before training; None when nothing was cut."""
    pruned_why: str | None
    """Why then; None when nothing was cut."""
    seed: int
    """The run's seed."""
    parameters: int
    """Parameters that are left: entries cut out or held at zero do not count."""
    macs: int
    """Multiply-accumulates of one example's forward pass."""
    train_seconds: float
    """Wall-clock seconds of training, scoring and cutting, without the final evaluation."""
    batch_ms: float
    """Milliseconds of one training step of the final network."""
    peak_memory_bytes: int
    """Largest memory in use while training, in bytes."""
    disk_bytes: int
    """Size of the saved model file, in bytes."""
    csr_bytes: int
    """The paper's estimate of the weights' size in compressed sparse rows, in bytes."""
    device: str
    """The model of the GPU or processor, which older records call ``cpu``; after ``2 x`` where two trained the run,
    each on its half of every batch, and ``batch_ms`` is of such a half, without the exchange of gradients."""
    python: str
    """Python's version."""
    torch: str
    """Torch's version."""
    commit: str
    """The commit of the code that ran."""
    variant: str = ""
    """Options that make the method another than its row says, such as ``gate columns``; empty for the method itself."""
    epochs_trained: int | None = None
    """Epochs that were trained in all, rewound ones included; None in records from before there was a difference."""

    dense_batch_ms: float | None = None
    """Milliseconds of one training step of the dense network, measured in turn with ``batch_ms``, or in older records
    right before it, where a drift of the machine is in their ratio."""
    dense_macs: int | None = None
    """Multiply-accumulates of one example's forward pass through the dense network."""
    of_macs_limit: float | None = None
    """A training step's speed-up over the dense network's, as a share of what the multiply-accumulates would allow."""
    step_bytes: int | None = None
    """Most memory during a training step of the final network, in bytes: allocated on a GPU, else resident."""
    dense_step_bytes: int | None = None
    """The same of the dense network, with the final one in memory beside it."""
    energy_kwh: float | None = None
    """Electricity of the run from its start to the end of its training, in kWh, with what ``train_seconds`` leaves out:
    building the model, validation and checkpoints."""
    emissions_g: float | None = None
    """CO2 equivalents of that, in g; None where they were not measured."""
    emissions_country: str | None = None
    """The country by whose mix of electricity, as its ISO code of three letters."""
    emissions_measured: bool | None = None
    """Whether the power was read from meters; else it is estimated, from load and rated power."""
    threads: int | None = None
    """Threads that torch computed with on the CPU; None in records from before they were told."""
    load: float | None = None
    """The machine's load (the mean number of busy processes over a minute) right before ``batch_ms`` was measured; None
    where the system does not tell it."""

    def __post_init__(self) -> None:
        for name, kinds in KINDS.items():
            _check(name, getattr(self, name), kinds)

    def to_json(self) -> str:
        """The result as a JSON object, a field a line, in the order of the columns."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: Any, where: str = "result") -> Result:
        """The result held in ``data``; raises ValueError naming ``where`` and the field that is missing or wrong."""
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected an object with a run's fields, got {type(data).__name__}")
        if unknown := [str(name) for name in data if name not in KINDS]:
            raise ValueError(f"{where}: unknown field {', '.join(unknown)}")
        if missing := [name for name in KINDS if name not in data and name not in LATER]:
            raise ValueError(f"{where}: missing field {', '.join(missing)}")
        # JSON does not tell 1 from 1.0, and a column has one type.
        typed: dict[str, Any] = {n: float(v) if float in KINDS[n] and type(v) is int else v for n, v in data.items()}
        try:
            return cls(**typed)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str, where: str = "result.json") -> Result:
        """The result written by ``to_json``; raises ValueError naming the file ``where`` and what is wrong in it."""
        return cls.from_dict(parse(text, where), where)


def _check(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    finite_number = type(value) is not bool and isinstance(value, int | float) and math.isfinite(value)
    fits = (float in kinds and finite_number) or any(
        isinstance(value, kind) for kind in kinds if kind is not float and (kind is bool or type(value) is not bool)
    )
    if not fits:
        expected = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ValueError(f"field {name}: expected {expected}, got {value!r}")


KINDS: dict[str, tuple[type, ...]] = {n: get_args(hint) or (hint,) for n, hint in get_type_hints(Result).items()}
"""Every field, in the order of the columns, with the types that it may have."""
LATER = {field.name for field in fields(Result) if field.default is not MISSING}
"""Columns that came after the first records, which may lack them."""
