"""The paper's domains, one file a task, each an adapter between a domain and the one training loop, ``tasks.runner``.

A task module (a file here whose name has no leading underscore) defines four names:

- ``Options``: a frozen dataclass, a subclass of :class:`tasks.runner.options.Options`; its fields are the command line.
- ``PRESETS``: name -> a function without arguments that returns an ``Options``; ``"default"`` is one of them.
- ``SUMMARY``: a :class:`Summary`, the task's line in the list of tasks.
- ``make``: ``Options`` -> :class:`Task`.

Nothing in it speaks of pruning.
"""

from __future__ import annotations

from tasks.runner import interrupts as interrupts

# isort: split
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

DataFingerprint = Mapping[str, int | str]
"""What tells data from other data of the same name: sizes, and a digest of the rest."""


class Summary(NamedTuple):
    """A task's line in the list that ``python -m tasks`` prints."""

    data: str
    source: str
    """Where the data come from."""
    network: str
    minutes: str
    """Minutes that a dense run takes on a CPU, of a preset that is made for one."""


class Task(ABC):
    """What a domain brings to the training loop.

    A task must have the abstract methods and the attributes ``dataset``, ``network`` and ``metric``. The rest has a
    default.

    Raises:
        ValueError: A subclass is made that lacks an abstract method.
    """

    dataset: str
    """The data set's or environment's name, as its own community writes it."""
    network: str
    """The network's name in records, such as ``mlp-128-128-128``."""
    metric: str
    """What ``evaluate`` measures, such as ``return``."""
    higher_is_better: bool = True
    """Whether a larger metric is a better one."""
    split: str = "test"
    """What the final evaluation runs on, such as ``test`` or ``100 episodes``."""
    clip: float | None = None
    """Largest gradient norm, or None for no clipping."""
    include: tuple[str, ...] = ()
    """Patterns of embedding tables that lose single weights as well; see :class:`earlycrop.Limits`."""
    batches_per_epoch: int | None = None
    """Where it is known beforehand: the learning rate is set before each of them, else before each epoch."""

    splits: bool = False
    """Whether several processes can train it, each on its part of every batch (see :mod:`tasks.runner.distributed`)."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Task:
        """Refuse a task that is not finished, in a sentence."""
        if missing := sorted(cls.__abstractmethods__):
            raise ValueError(f"the task {cls.__name__} has no {', '.join(missing)}: tasks.Task says what each returns")
        return super().__new__(cls)

    @abstractmethod
    def model(self) -> nn.Module:
        """A freshly initialised network (from torch's global random state)."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimizer over all parameters of ``model``."""

    @abstractmethod
    def learning_rate(self, progress: float) -> float:
        """The learning rate when ``progress`` (0 to 1) of the training is done."""

    def trained_on(self) -> DataFingerprint:
        """What tells the data from others of the same name, for a run that goes on; nothing where there are none."""
        return {}

    @abstractmethod
    def batches(self, model: nn.Module, epoch: int) -> Iterator[Any]:
        """The training batches of epoch ``epoch`` (from 1). They may depend on the model as it is when each is drawn.

        Everything random in them is seeded by the options' seed and ``epoch``, so that a resumed run draws the same.
        """

    def batch_to_measure(self, model: nn.Module) -> Any:
        """The training batch that a step's cost is measured on: where sizes differ, a usual one, whatever the seed."""
        return next(iter(self.batches(model, 1)))

    @abstractmethod
    def scoring_batches(self, model: nn.Module, epoch: int) -> Iterable[Any]:
        """Training data that the pruning scores are computed on, drawn without changing anything that training sees."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Any:
        """A batch's training loss: a scalar that is a mean over examples, or a tuple or dict of such terms to add up.

        Scoring differentiates it twice.
        """

    def training_loss(self, model: nn.Module, batch: Any) -> Any:
        """The same number for a training step, which differentiates it once; a task may have a faster way to it."""
        return self.loss(model, batch)

    def log(self) -> dict[str, float]:
        """What the last epoch's batches told (games played, mean return, ...), for the record's line of that epoch."""
        return {}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """What is measured after each epoch on data held out of the training data, for the record's line of that epoch.

        It does not count as training time.
        """
        return {}

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Any]) -> Mapping[str, float | Tensor]:
        """Return diagnostics recorded just before and just after a pruning, on scoring batches.

        Numbers go into the event as they are, log probabilities (rows, choices) as the mean Kullback-Leibler divergence
        of what was from what is. It does not count as training time.
        """
        return {}

    @abstractmethod
    def evaluate(self, model: nn.Module) -> float:
        """The final metric on ``split``."""

    def record(self, model: nn.Module, folder: Path) -> list[Path]:
        """Draw what the finished ``model`` has learned into ``folder``, for a person to look at; the files."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit: plain numbers, strings, lists (JSON)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state from ``state_dict``."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state: define load_state_dict beside state_dict")


def names() -> list[str]:
    """The tasks that exist: the modules of this package without a leading underscore."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_") and not m.ispkg)
