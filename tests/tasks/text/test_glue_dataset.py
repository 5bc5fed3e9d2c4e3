"""GLUE's metrics by hand, its files, what is said of bad ones, and predictions as its server takes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks import glue
from tasks.text import glue_dataset
from tasks.text.glue_dataset import GLUE, METRICS, Split
from tests.tasks.tiny_data import sentences
from tests.tasks.tiny_tasks import GLUE_OPTIONS, glue_task

pytestmark = pytest.mark.usefixtures("without_type_checks")
REAL = Path(__file__).parents[3] / "data" / "glue"


def test_metrics_by_hand() -> None:
    labels, predicted = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 1, 0, 0, 0, 1, 0, 1])
    tp, tn, fp, fn = 3, 3, 1, 1
    assert METRICS["accuracy"](labels, predicted) == 6 / 8
    assert METRICS["f1"](labels, predicted) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert METRICS["matthews"](labels, predicted) == pytest.approx((tp * tn - fp * fn) / math.sqrt(4 * 4 * 4 * 4))
    a, b = np.array([0.0, 1.0, 2.0, 5.0]), np.array([1.0, 3.0, 2.0, 4.0])
    cov = ((a - a.mean()) * (b - b.mean())).sum()
    expected = cov / math.sqrt(((a - a.mean()) ** 2).sum() * ((b - b.mean()) ** 2).sum())
    assert METRICS["pearson"](a, b) == pytest.approx(expected)
    assert METRICS["spearman"](a, b) == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))  # ranks 0 1 2 3 and 0 2 1 3
    same = np.full(4, 2.0)
    assert (METRICS["pearson"](a, same), METRICS["spearman"](a, same)) == (0.0, 0.0)
    assert (METRICS["matthews"](labels, 0 * labels), METRICS["f1"](labels, 0 * labels)) == (0.0, 0.0)


def test_what_is_held_out_is_never_trained_on_and_the_same_for_every_seed(tmp_path: Path) -> None:
    task, other = glue_task(tmp_path, validation=0.25), glue_task(tmp_path, validation=0.25, seed=7)
    assert task.validation is not None
    assert other.validation is not None
    assert (len(task.training), len(task.validation)) == (30, 10)
    for a, b in ((task.training, other.training), (task.validation, other.validation)):
        assert torch.equal(a.inputs["input_ids"], b.inputs["input_ids"])
    split = Split(([str(i) for i in range(40)],), torch.zeros(40))
    train, validation = glue_dataset.held_out(split, 0, 0.25)
    assert sorted(train.texts[0] + validation.texts[0]) == sorted(split.texts[0])
    few, _ = glue_dataset.held_out(split, 12, 0.25)
    assert (len(few.labels), set(few.texts[0]) <= set(split.texts[0])) == (9, True)
    assert glue_task(tmp_path, validation=0.0).validate(task.model()) == {}


def damaged(folder: Path, change: Any, split: str = "train") -> None:
    path = folder / f"{split}.parquet"
    table = datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))
    change(table.to_dict(), path)


def rewritten(**columns: Any) -> Any:
    def change(rows: dict[str, Any], path: Path) -> None:
        new = {**rows, **{name: change(rows[name]) for name, change in columns.items()}}
        datasets.Dataset.from_dict({k: v for k, v in new.items() if v is not None}).to_parquet(path)

    return change


def no_text(path: Path) -> None:
    """A column of texts of which the second is Latin-1."""
    texts = pa.array([b"good", b"caf\xe9", b"bad"]).view(pa.string())
    pq.write_table(pa.table({"sentence1": texts, "sentence2": ["a", "b", "c"], "label": [0, 1, 0]}), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows, path: path.unlink(),
            r"has no train.parquet and no shards of it: put there train.parquet, validation.parquet",
        ),
        (lambda rows, path: path.write_bytes(b"PAR1 no more"), "train.parquet cannot be read .*: fetch it anew"),
        (lambda rows, path: path.write_bytes(b""), r"train.parquet cannot be read .*: fetch it anew"),
        (lambda rows, path: no_text(path), "train split: a row of sentence1 is not UTF-8: mend or remove it"),
        (
            lambda rows, path: datasets.Dataset.from_dict({k: [] for k in rows}).to_parquet(path),
            r"train.parquet cannot be read \(it has no rows\): fetch it anew",
        ),
        (rewritten(label=lambda v: [*v[:3], 2, *v[4:]]), "train split: the label of row 3 is 2, and RTE has 0 to 1"),
        (rewritten(label=lambda v: [*v[:3], -1, *v[4:]]), "train split: the label of row 3 is -1"),
        (rewritten(label=lambda v: [float(x) for x in v]), "the label of row 0 is [01].0"),
        (rewritten(label=lambda v: [float(x) for x in v]), "RTE has 0 to 1: save the column as integers"),
        (rewritten(sentence1=lambda v: [*v[:5], None, *v[6:]]), "sentence1 of row 5 is None, and no text"),
        (rewritten(sentence2=lambda v: None), r"no column sentence2 \(there are label, sentence1\): is this RTE"),
    ],
)
def test_bad_data_are_a_sentence(change: Any, message: str, tmp_path: Path) -> None:
    model = sentences(tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        glue.make(replace(GLUE_OPTIONS, data=str(tmp_path), **model))


def test_files_of_other_tasks_are_not_taken(tmp_path: Path) -> None:
    model = sentences(tmp_path / "rte")
    sentences(tmp_path / "wnli", "wnli")
    with pytest.raises(ValueError, match=r"has RTE by the folder rte, and the task is MRPC: give --task-name rte, or"):
        glue.make(replace(GLUE_OPTIONS, task_name="mrpc", data=str(tmp_path), **model))


@pytest.mark.parametrize(
    ("kept", "given", "asked", "message"),
    [
        ("mrpc", "mrpc", "rte", "mrpc has MRPC by the folder mrpc, and the task is RTE: give --task-name mrpc, or in"),
        ("rte", "rte", "stsb", "rte has RTE by the folder rte, and the task is STS-B: give --task-name rte, or in"),
        ("STS-B", "STS-B", "mrpc", "STS-B has STS-B by the folder STS-B, .*: give --task-name stsb, or in --data a"),
        ("mrpc/data", "mrpc", "rte", "mrpc has MRPC by the folder mrpc, and the task is RTE"),
        ("hub/mrpc/data", "hub/..", "rte", "has MRPC by the folder mrpc, and the task is RTE"),
    ],
)
def test_another_task_s_folder_is_not_taken_though_its_columns_are_the_same(
    kept: str, given: str, asked: Any, message: str, tmp_path: Path
) -> None:
    model = sentences(tmp_path / kept)
    with pytest.raises(ValueError, match=message):
        glue.make(replace(GLUE_OPTIONS, task_name=asked, data=str(tmp_path / given), **model))


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (
            ("not_equivalent", "equivalent"),
            "rte",
            "labels are not_equivalent, equivalent, .*: give --task-name mrpc",
        ),
        (("entailment", "not_entailment"), "wnli", "WNLI has not_entailment, entailment: give --task-name"),
        (("entailment", "not_entailment"), "stsb", "and STS-B has a number: give --task-name"),
        (("bad", "good"), "stsb", "the labels are bad, good, and STS-B has a number: give the data of that task"),
        (("bad", "good"), "rte", ""),
        (("entailment", "not_entailment"), "rte", ""),
    ],
)
def test_labels_that_have_names_are_those_of_the_task(
    names: tuple[str, str], asked: Any, message: str, tmp_path: Path
) -> None:
    model = sentences(tmp_path)
    for split in ("train", "validation"):
        table = datasets.Dataset.from_parquet(str(tmp_path / f"{split}.parquet"), cache_dir=str(tmp_path / "cache"))
        named = table.cast_column("label", datasets.ClassLabel(names=list(names)))
        named.to_parquet(tmp_path / f"{split}.parquet")
    options = replace(GLUE_OPTIONS, task_name=asked, data=str(tmp_path), **model)
    if message:
        with pytest.raises(ValueError, match=message):
            glue.make(options)
    else:
        glue.make(options)


@pytest.mark.parametrize(
    ("task", "predicted", "written"),
    [
        ("rte", [0, 1], ["entailment", "not_entailment"]),
        ("qnli", [1, 0], ["not_entailment", "entailment"]),
        ("mnli", [0, 1, 2], ["entailment", "neutral", "contradiction"]),
        *((task, [0, 1], ["0", "1"]) for task in ("cola", "sst2", "mrpc", "qqp", "wnli")),
        ("stsb", [0.0, 2.34567, 5.0], ["0.000", "2.346", "5.000"]),
    ],
)
def test_predictions_are_written_as_the_server_takes_them(
    task: str, predicted: list[float], written: list[str], tmp_path: Path
) -> None:
    values = np.array(predicted)
    glue_dataset.write_predictions(GLUE[task], tmp_path, {"validation": (values, values)})
    lines = [f"{i}\t{value}" for i, value in enumerate(written)]
    assert (tmp_path / "validation.tsv").read_text().splitlines() == ["index\tprediction", *lines]


@pytest.mark.skipif(not REAL.is_dir(), reason="GLUE is not here")
@pytest.mark.parametrize("name", list(GLUE))
def test_the_real_data_are_read(name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"{name} is not here")
    splits = glue_dataset.read(str(REAL), GLUE[name], name)
    sizes = {"cola": (8551, 1043), "sst2": (67349, 872), "stsb": (5749, 1500), "rte": (2490, 277), "wnli": (635, 71)}
    if name in sizes:
        assert tuple(len(split.labels) for split in splits.values()) == sizes[name]
