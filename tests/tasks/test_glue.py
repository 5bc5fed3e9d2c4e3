"""The GLUE task: every one of its data sets is trained on and measured, batches, the learning rate and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import earlycrop
from earlycrop.selection.nodes import choose_nodes, remaining_outputs
from earlycrop.selection.targets import max_remaining
from earlycrop.utils.torchvision_compat import load_torchvision
from leaderboards import studies
from tasks import glue
from tasks.runner import arguments, command_line
from tasks.runner.options import check_values
from tasks.text.glue_dataset import GLUE
from tests.tasks.runs import log_of, until
from tests.tasks.tiny_data import sentences
from tests.tasks.tiny_tasks import GLUE_OPTIONS, glue_task

transformers: Any = load_torchvision("transformers")

pytestmark = pytest.mark.usefixtures("without_type_checks")

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


@pytest.mark.parametrize("task", list(GLUE))
def test_every_task_is_read_trained_on_and_measured(task: Any, tmp_path: Path) -> None:
    sentences(tmp_path / task, task)
    options = replace(
        GLUE_OPTIONS, task_name=task, data=str(tmp_path), model=str(tmp_path / task / "bert")
    )  # a folder a task
    adapter = glue.LanguageUnderstanding(options)
    model = adapter.model()
    assert model.classifier.out_features == {"stsb": 1, "mnli": 3}.get(task, 2)
    batch = next(adapter.batches(model, 1))
    assert ((batch.inputs["token_type_ids"] == 1).any() == (len(GLUE[task].texts) == 2)).item()
    logits = model.eval()(**batch.inputs).logits
    rows = range(len(batch.labels))
    if task == "stsb":
        by_hand = torch.stack([(logits[i, 0] - batch.labels[i]) ** 2 for i in rows]).mean()
    else:
        by_hand = torch.stack([-(logits[i].exp() / logits[i].exp().sum()).log()[batch.labels[i]] for i in rows]).mean()
    torch.testing.assert_close(adapter.loss(model, batch), by_hand)
    value = adapter.evaluate(model)
    files = adapter.record(model, tmp_path)
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert list(measured) == list(GLUE[task].evaluated)
    assert measured[GLUE[task].evaluated[0]][adapter.metric] == value
    assert len(files[1].read_text().splitlines()) == 21
    assert set(adapter.validate(model)) == {f"validation_{name}" for name in GLUE[task].metrics}


def test_numbers_are_measured_as_they_are_predicted(tmp_path: Path) -> None:
    """Correlations need no range: predictions that rank well below 0 rank well."""
    sentences(tmp_path / "stsb", "stsb")
    place = {"data": str(tmp_path), "model": str(tmp_path / "stsb" / "bert")}
    task = glue.LanguageUnderstanding(replace(GLUE_OPTIONS, task_name="stsb", **place))
    model = task.model()
    with torch.no_grad():
        model.classifier.weight.mul_(100)
        model.classifier.bias.sub_(100)
    examples = task.evaluated["validation"]
    rows = torch.arange(len(examples))
    predicted = model.eval()(**examples.batch(rows, torch.device("cpu")).inputs).logits.squeeze(-1).detach().numpy()
    assert predicted.max() < 0 < predicted.std()
    assert task.evaluate(model) == pytest.approx(stats.pearsonr(examples.labels.numpy(), predicted).statistic, abs=1e-5)


def test_what_a_step_costs_is_measured_on_the_same_batch_for_every_seed(tmp_path: Path) -> None:
    tasks = [glue_task(tmp_path, seed=seed) for seed in (0, 1)]
    batches = [task.batch_to_measure(task.model()) for task in tasks]
    assert torch.equal(batches[0].inputs["input_ids"], batches[1].inputs["input_ids"])
    assert len(batches[0].labels) == GLUE_OPTIONS.batch
    lengths = batches[0].inputs["attention_mask"].sum(1)
    assert lengths.min() <= tasks[0].training.lengths.median() <= lengths.max()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task_name": "ax"}, "there is no task_name 'ax': take one of cola, sst2"),
        ({"warmup": 1.0}, "warmup must be 0 or more and below 1, not 1"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"length": 7}, "length must be 8 or more, not 7"),
        ({"clip": 0.0}, "clip must be above 0, not 0"),
    ],
)
def test_options_out_of_range_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(replace(GLUE_OPTIONS, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "data/nowhere"}, "there is no folder data/nowhere: --data takes"),
        ({"model": "./nowhere"}, r"there is no folder ./nowhere: --model takes"),
        ({"length": 300}, "length is 300, and .* takes 128 at most"),
        ({"validation": 0.999}, "no training examples left: lower --validation"),
    ],
)
def test_wrong_options_are_a_sentence(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        glue_task(tmp_path, **changed)


def test_scoring_batches_are_training_examples_and_change_nothing(tmp_path: Path) -> None:
    task = glue_task(tmp_path)
    model = task.model()
    before = torch.get_rng_state()
    batches = task.scoring_batches(model, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(b.labels) for b in batches] == [8, 8]
    known = {tuple(task.training.batch(torch.tensor([i]), torch.device("cpu")).inputs["input_ids"][0].tolist())
             for i in range(len(task.training))}  # fmt: skip
    for batch in batches:
        for ids, mask in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True):
            assert tuple(ids[mask.bool()].tolist()) in known


def test_the_rate_goes_up_and_down(tmp_path: Path) -> None:
    task = glue_task(tmp_path, learning_rate=1e-3, warmup=0.2)
    rates = [task.learning_rate(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([1e-6, 5e-4, 1e-3, 5e-4, 1e-6])
    assert task.batches_per_epoch == 4  # 32 examples left, eight each


@pytest.mark.parametrize("method", ["earlycrop-s", pytest.param("earlycrop-u", marks=pytest.mark.slow)])
def test_a_run_is_cut_and_stopped_and_resumed_ends_in_the_same_numbers(method: str, tmp_path: Path) -> None:
    model = sentences(tmp_path / "data")
    options = replace(
        GLUE_OPTIONS, data=str(tmp_path / "data"), method=method, sparsity=0.3, rounds=2, trigger="2", **model
    )

    uninterrupted, store = until(99, "glue", options, tmp_path / "whole")
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            until(last, "glue", options, tmp_path / "stopped")
    resumed, again = until(99, "glue", options, tmp_path / "stopped")
    assert resumed.value == uninterrupted.value
    assert uninterrupted.weight_sparsity >= 0.3
    assert uninterrupted.pruned_epoch == 2
    small = store.model(glue.make(options))
    fresh = glue.make(options).model()
    for name, p in small.named_parameters():
        if "embed" in name or "LayerNorm" in name:
            assert p.shape == fresh.get_parameter(name).shape
            assert (p == 0).sum() == (fresh.get_parameter(name) == 0).sum() or p.ndim == 1
    sizes = [sum(p.numel() for p in model.parameters()) for model in (small, fresh)]
    assert (sizes[0] < sizes[1]) == (method == "earlycrop-s")
    for a, b in zip(log_of(store), log_of(again), strict=True):
        assert a["loss"] == b["loss"]
        assert a["validation_accuracy"] == b["validation_accuracy"]


def test_it_learns_what_tells_the_label(tmp_path: Path) -> None:
    model = sentences(tmp_path / "data", "sst2", (120, 60))["model"]
    given = ["--data", str(tmp_path / "data"), "--model", model, "--runs", str(tmp_path), "--method", "dense"]
    given += ["--task-name", "sst2", "--epochs", "10", "--batch", "8", "--learning-rate", "3e-3", "--record"]
    result = command_line.main("glue", given)
    assert (result.metric, result.dataset, result.split, result.network) == ("accuracy", "SST-2", "validation", "bert")
    assert result.value > 0.8
    assert json.loads(next(tmp_path.glob("glue-*/metrics.json")).read_text()) == {
        "validation": {"accuracy": result.value}
    }


def test_the_study_s_share_is_that_of_the_matrices() -> None:
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**MINILM))
    counts = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    embedded = sum(count for name, count in counts.items() if "embed" in name)
    assert pytest.approx(1 - embedded / sum(counts.values()), abs=5e-5) == studies.MINILM


def test_a_study_s_half_is_half_of_the_heads_and_neurons_and_nothing_else() -> None:
    options = arguments.parse(glue, ["--preset", "small", *studies.HALF])
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**MINILM, vocab_size=50))
    graph = earlycrop.trace(model, {"input_ids": torch.ones(1, 4, dtype=torch.long)})
    limits = earlycrop.Limits(ceilings=options.ceilings, exclude=options.exclude)
    allowed = max_remaining(graph.cost(options.of), options.sparsity)
    removed = choose_nodes(graph, torch.rand(graph.count), allowed, options.of, limits).removed
    left = remaining_outputs(graph, removed)
    assert [left[f"bert.encoder.layer.{i}.attention.self.query"] for i in range(6)] == [6] * 6
    assert [left[f"bert.encoder.layer.{i}.intermediate.dense"] for i in range(6)] == [768] * 6
    assert (removed.sum(), left["bert.pooler.dense"]) == (6 * (6 + 768), 384)
