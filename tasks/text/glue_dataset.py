"""The tasks of GLUE as their authors publish them: what is read, what is told apart, and how that is measured.

Wang, Singh, Michael, Hill, Levy, Bowman: "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", ICLR 2019, table 1. Test labels are not public: the validation split is what is evaluated, as in the
paper's table 8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor

from tasks.data import tables
from tasks.runner.files import write

Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: dict[str, Metric] = {
    "matthews": metrics.matthews_corrcoef,
    "accuracy": metrics.accuracy_score,
    "f1": partial(metrics.f1_score, zero_division=0.0),
    "pearson": lambda labels, predicted: _correlation(stats.pearsonr, labels, predicted),
    "spearman": lambda labels, predicted: _correlation(stats.spearmanr, labels, predicted),
}
"""Name -> a metric of labels and predictions. Correlations are -1 to 1, and 0 where all predictions are the same."""


def _correlation(of: Any, labels: np.ndarray, predicted: np.ndarray) -> float:
    return 0.0 if np.ptp(predicted) == 0 or np.ptp(labels) == 0 else float(of(labels, predicted).statistic)


@dataclass(frozen=True)
class Glue:
    """One task."""

    name: str
    texts: tuple[str, ...]
    """The columns that are read, one or a pair."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Rows of ``METRICS``; the first is the one that the paper's table 8 has."""
    classes: int = 2
    """0: a number between 0 and 5 is predicted."""
    evaluated: tuple[str, ...] = ("validation",)
    """The splits that are evaluated."""
    names: tuple[str, ...] = ()
    """What the data set on the hub calls the classes, in its order."""
    by_name: bool = False
    """Whether GLUE's server takes classes by their names, and not by their numbers."""

    def measured(self, labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Each metric by its name."""
        return {name: float(METRICS[name](labels, predicted)) for name in self.metrics}


ENTAILMENT = ("entailment", "not_entailment")
GLUE: dict[str, Glue] = {
    "cola": Glue("CoLA", ("sentence",), ("matthews",), names=("unacceptable", "acceptable")),
    "sst2": Glue("SST-2", ("sentence",), names=("negative", "positive")),
    "mrpc": Glue("MRPC", ("sentence1", "sentence2"), ("accuracy", "f1"), names=("not_equivalent", "equivalent")),
    "stsb": Glue("STS-B", ("sentence1", "sentence2"), ("pearson", "spearman"), classes=0),
    "qqp": Glue("QQP", ("question1", "question2"), ("accuracy", "f1"), names=("not_duplicate", "duplicate")),
    "mnli": Glue(
        "MNLI", ("premise", "hypothesis"), classes=3, evaluated=("validation_matched", "validation_mismatched"),
        names=("entailment", "neutral", "contradiction"), by_name=True,
    ),
    "qnli": Glue("QNLI", ("question", "sentence"), names=ENTAILMENT, by_name=True),
    "rte": Glue("RTE", ("sentence1", "sentence2"), names=ENTAILMENT, by_name=True),
    "wnli": Glue("WNLI", ("sentence1", "sentence2"), names=ENTAILMENT[::-1]),
}  # fmt: skip
LARGEST = 5.0
"""The largest number that STS-B's annotators give; the least is 0."""


@dataclass(frozen=True)
class Split:
    """Examples with their labels."""

    texts: tuple[list[str], ...]
    """One list, or two of the same length."""
    labels: Tensor
    """(N,): int64 classes, or float32 numbers."""


def read(data: str, task: Glue, folder: str) -> Mapping[str, Split]:
    """The training split and those that are evaluated: of ``data``/``folder`` or ``data`` itself, or of the hub.

    Raises:
        ValueError: a split, a column or a label is not there, or not what GLUE has; the sentence names it.
    """
    splits = ("train", *task.evaluated)
    expected = ", ".join(f"{split}.parquet" for split in splits) + f", or a folder {folder} that has them"
    inside = Path(data) / folder
    if not inside.is_dir():
        _require_no_other_folder(Path(data), folder)
        inside = Path(data)
    place = str(inside) if inside.is_dir() else data
    split_tables = tables.read(place, {split: (split,) for split in splits}, expected, folder)
    for name in splits:
        if name not in split_tables:
            raise ValueError(f"{data} has the splits {', '.join(split_tables)}, and no {name}: {expected} are needed")
    return {name: _split(f"{data}, {name} split", split_tables[name], task) for name in splits}


def _require_no_other_folder(data: Path, folder: str) -> None:
    """Raise a ValueError for another task's folder, or one that holds such a folder: their columns are often alike."""
    inside = [file.parent.relative_to(data).parts for file in sorted(data.rglob("*.parquet"))]
    for name in (data.resolve().name, *(part for parts in inside for part in parts)):
        other = name.lower().replace("-", "")  # GLUE's own archive has STS-B and the like
        if other in GLUE and other != folder:
            raise ValueError(
                f"{data} has {GLUE[other].name} by the folder {name}, and the task is {GLUE[folder].name}: give "
                f"--task-name {other}, or in --data a folder with one of {folder} in it"
            )


def _require_own_labels(where: str, kind: Any, task: Glue) -> None:
    """Raise a ValueError for classes that have names, in the file, which are not those of the task."""
    names = tuple(getattr(kind, "names", ()))
    others = [name for name, other in GLUE.items() if other.names == names and names != task.names]
    if names and (others or not task.classes):
        instead = f"give --task-name {others[0]}" if others else "give the data of that task"
        expected = ", ".join(task.names) or "a number"
        raise ValueError(f"{where}: the labels are {', '.join(names)}, and {task.name} has {expected}: {instead}")


def _split(where: str, table: Any, task: Glue) -> Split:
    for name in (*task.texts, "label"):
        if name not in table.column_names:
            columns = ", ".join(table.column_names)
            raise ValueError(f"{where}: there is no column {name} (there are {columns}): is this {task.name}?")
    _require_own_labels(where, table.features["label"], task)
    columns_of_text = tuple(tables.texts(where, table, name) for name in task.texts)
    labels = list(table["label"])
    for row, label in enumerate(labels):
        if not _allowed(label, task.classes):
            allowed = f"0 to {task.classes - 1}" if task.classes else f"a number from 0 to {LARGEST:g}"
            mend = "mend the row"
            if task.classes and isinstance(label, float):
                mend = "save the column as integers"
            raise ValueError(f"{where}: the label of row {row} is {label!r}, and {task.name} has {allowed}: {mend}")
    return Split(columns_of_text, torch.tensor(labels, dtype=torch.long if task.classes else torch.float32))


def _allowed(label: Any, classes: int) -> bool:
    if classes:
        return isinstance(label, int) and 0 <= label < classes
    return isinstance(label, int | float) and 0 <= label <= LARGEST


def held_out(split: Split, max_examples: int, share: float) -> tuple[Split, Split]:
    """At most ``max_examples`` to train on (0 is all) and a share of them to validate on, whatever the seed."""
    order = np.random.default_rng(0).permutation(len(split.labels))[: max_examples or None]
    count = round(share * len(order))

    def part(rows: np.ndarray) -> Split:
        return Split(
            tuple([column_texts[i] for i in rows] for column_texts in split.texts), split.labels[torch.from_numpy(rows)]
        )

    return part(np.sort(order[count:])), part(np.sort(order[:count]))


def write_predictions(task: Glue, folder: Path, predictions: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Path]:
    """Labels and predictions of each split as files: every metric in metrics.json, and each prediction in a table as
    GLUE's server takes it: classes of RTE, QNLI and MNLI by name, of the others by number, a score with three decimals.
    """
    measured = {split: task.measured(*both) for split, both in predictions.items()}
    files = {"metrics.json": json.dumps(measured, indent=1) + "\n"}
    for split, (_, predicted) in predictions.items():
        lines = (f"{i}\t{_written(task, value)}" for i, value in enumerate(predicted.tolist()))
        files[f"{split}.tsv"] = "\n".join(["index\tprediction", *lines, ""])
    for name, text in files.items():
        write(folder / name, text)
    return [folder / name for name in files]


def _written(task: Glue, value: float) -> str:
    if not task.classes:
        return f"{value:.3f}"
    return task.names[int(value)] if task.by_name else str(value)
