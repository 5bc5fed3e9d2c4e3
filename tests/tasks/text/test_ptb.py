"""Language modelling: texts in the formats that people have them in, batches, perplexity, and whole runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from tasks import ptb
from tasks.nets.psmm import PSMM
from tasks.runner import command_line
from tasks.runner.errors import RunError
from tasks.text.corpus import _columns
from tasks.text.corpus import read as read_corpus
from tasks.text.sequences import PADDING, Batch, chunks, parts, streams
from tests.tasks.runs import log_of, until
from tests.tasks.tiny_data import text

pytestmark = pytest.mark.usefixtures("without_type_checks")

PTB = Path(__file__).parents[3] / "data" / "ptb"
SMALL = ptb.Options(
    method="dense", embedding=6, widths=(9, 7), window=5, batch=4, length=8, epochs=3, dropout=0.2, scoring=2
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text(tmp_path / "text")
    return tmp_path / "text"


def made(folder: Path, **changed: Any) -> ptb.LanguageModelling:
    return ptb.LanguageModelling(replace(SMALL, data=str(folder), **changed))


# --- texts


def test_a_folder_of_text_is_read_with_ends_of_lines_and_the_training_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.tokens").write_text(" = a title = \n \n the cat\r\nthe dog", encoding="utf-8")
    (tmp_path / "wiki.valid.tokens").write_text("a bird\n", encoding="utf-8")
    (tmp_path / "wiki.test.tokens").write_text("the üb\u2028er cat\n", encoding="utf-8")
    corpus = read_corpus(str(tmp_path))
    assert corpus.name == "wiki"
    assert corpus.vocabulary == ("=", "a", "title", "<eos>", "the", "cat", "dog", "<unk>")
    assert corpus.train.tolist() == [0, 1, 2, 0, 3, 3, 4, 5, 3, 4, 6, 3]
    assert corpus.valid.tolist() == [1, 7, 3]
    assert corpus.test.tolist() == [4, 7, 7, 5, 3]
    assert corpus.end == 3


def test_parquet_as_the_hub_has_it_reads_the_same(folder: Path, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    for split, name in (("train", "train-00000-of-00001"), ("valid", "validation"), ("test", "test")):
        lines = (folder / f"ptb.{split}.txt").read_text().splitlines()
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"sentence": lines}).to_parquet(tmp_path / "hub" / f"{name}.parquet")
    plain, hub = read_corpus(str(folder)), read_corpus(str(tmp_path / "hub"))
    assert hub.name == "hub"
    assert hub.vocabulary == plain.vocabulary
    for split in ("train", "valid", "test"):
        torch.testing.assert_close(getattr(hub, split), getattr(plain, split))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (["hello world", None, "hello"], "train split: text of row 1 is None, and no text: mend or remove that row"),
        ([1, 2, 3], "train split: text of row 0 is 1, and no text: mend or remove that row"),
    ],
)
def test_rows_of_parquet_files_that_are_no_text_are_named(held: list[Any], message: str, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict({"text": held}).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=f"{tmp_path}, {message}"):
        read_corpus(str(tmp_path))


def test_a_byte_order_mark_is_no_part_of_the_first_word(folder: Path) -> None:
    plain = read_corpus(str(folder))
    for file in folder.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().lstrip())
    marked = read_corpus(str(folder))
    assert marked.vocabulary == plain.vocabulary
    assert torch.equal(marked.valid, plain.valid)


def test_of_a_hub_data_set_splits_and_columns_are_found_or_named() -> None:
    import datasets

    held = datasets.DatasetDict({
        name: datasets.Dataset.from_dict({"text": [f"{name} \n", ""]}) for name in ("train", "validation", "test")
    })  # fmt: skip
    told = _columns("some/text", held)
    assert told == {"train": ["train \n", ""], "valid": ["validation \n", ""], "test": ["test \n", ""]}
    del held["validation"]
    with pytest.raises(ValueError, match="some/text has the splits train, test, and no valid or validation"):
        _columns("some/text", held)
    held["validation"] = datasets.Dataset.from_dict({"label": [1]})
    with pytest.raises(ValueError, match="some/text has label, and no column sentence or text"):
        _columns("some/text", held)


def spoil(what: str, folder: Path) -> None:
    if what == "no folder":
        folder.rename(folder.with_name("elsewhere"))
    elif what == "no file":
        (folder / "ptb.valid.txt").unlink()
    elif what == "no train":
        (folder / "ptb.train.txt").unlink()
    elif what == "empty":
        (folder / "ptb.valid.txt").write_bytes(b"\n \n")
    elif what == "latin":
        (folder / "ptb.test.txt").write_bytes(b"one\ntwo\ncaf\xe9 three\n")
    elif what == "two":
        (folder / "wiki.train.tokens").write_text("more\n")
    elif what == "parquet":
        for file in list(folder.glob("*.txt")):
            file.unlink()
        (folder / "train.parquet").write_bytes(b"no parquet")
    elif what == "broken":
        spoil("parquet", folder)
        for split in ("validation", "test"):
            (folder / f"{split}.parquet").write_bytes(b"no parquet")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no folder", "there is no folder FOLDER: --data takes"),
        ("no file", "FOLDER has no ptb.valid.txt: put it beside ptb.train.txt"),
        ("no train", "FOLDER has no *.train.txt and no *.train.tokens: put there"),
        ("empty", "FOLDER/ptb.valid.txt is empty"),
        ("latin", "FOLDER/ptb.test.txt is not UTF-8 in line 3: save it as UTF-8"),
        ("two", "FOLDER has ptb.train.txt and wiki.train.tokens: leave one corpus there"),
        ("parquet", "FOLDER has no valid*.parquet: put there"),
        ("broken", "FOLDER/train.parquet cannot be read ("),
    ],
)
def test_bad_data_are_one_sentence_before_anything_is_written(
    what: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(what, folder)
    with pytest.raises(SystemExit) as left:
        command_line.main("ptb", ["--data", str(folder), "--runs", str(tmp_path / "runs")])
    assert left.value.code == 2
    error = capsys.readouterr().err.strip()
    assert f"error: {message}".replace("FOLDER", str(folder)) in error
    assert len([line for line in error.splitlines() if "error:" in line]) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"window": -1}, "window must be 0 or more, not -1"),
        ({"widths": ()}, "widths must be one or more numbers of at least 1"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"learning_rate": math.nan}, "learning_rate must be a number above 0"),
        ({"decay": 0.5}, "decay must be 1 or more"),
        ({"clip": 0.0}, "clip must be a number above 0"),
    ],
)
def test_options_out_of_range_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ptb.make(replace(SMALL, **changed))


@pytest.mark.skipif(not PTB.is_dir(), reason="the Penn Treebank is not here")
def test_the_penn_treebank_has_its_known_sizes() -> None:
    corpus = read_corpus(str(PTB))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (929_589, 73_760, 82_430)
    assert len(corpus.vocabulary) == 10_000
    assert corpus.name == "ptb"
    paper = PSMM(10_000, 300, (300,), 100, 0.3)
    assert sum(p.numel() for p in paper.parameters()) == 6_823_000  # 6.82 million, as the authors' network


# --- sequences and batches


def test_every_word_is_a_target_once_and_the_word_before_it_the_input() -> None:
    words = torch.arange(1, 12)
    for text_, shape in ((streams(words, 0, 3), (3, 4)), (chunks(words, 0, 5), (3, 5))):
        assert text_.tokens.shape == text_.targets.shape == shape
        counted = text_.targets.flatten() != PADDING
        assert text_.targets.flatten()[counted].tolist() == list(range(1, 12))
        assert text_.tokens.flatten()[counted].tolist() == list(range(11))
    split = list(parts(streams(words, 0, 3), 3, 1))
    assert [p.tokens.shape for p in split] == [(3, 3), (3, 1)]
    assert split[1].targets.tolist() == [[4], [8], [PADDING]]


def test_contiguous_batches_carry_the_memory_of_the_last_step(folder: Path) -> None:
    task = made(folder, dropout=0.0)
    model = task.model()
    batches, before = [], None
    for batch in task.batches(model, 1):
        assert batch.memory is before
        task.training_loss(model, batch)
        before = task.memory
        batches.append(batch)
    assert len(batches) == task.batches_per_epoch == math.ceil(math.ceil(450 / 4) / 8)
    whole = model(torch.cat([b.tokens for b in batches], 1)).log_likelihood(
        torch.cat([b.targets.clamp(min=0) for b in batches], 1)
    )
    counted = torch.cat([b.targets for b in batches], 1) >= 0
    sizes = torch.tensor([float((b.targets >= 0).sum()) for b in batches])
    losses = torch.stack([task.loss(model, b) for b in batches])
    torch.testing.assert_close((losses * sizes).sum() / sizes.sum(), -whole[counted].mean())
    assert next(iter(task.batches(model, 2))).memory is None


def test_chunks_are_shuffled_by_epoch_and_seed_and_start_from_nothing(folder: Path) -> None:
    task = made(folder, carry=False)
    model = task.model()

    def epoch(task: ptb.LanguageModelling, number: int) -> list[Batch]:
        return list(task.batches(model, number))

    first = epoch(task, 1)
    assert len(first) == task.batches_per_epoch == math.ceil(math.ceil(450 / 8) / 4)
    assert all(b.memory is None for b in first)
    held = torch.cat([b.targets for b in first])
    assert sorted(held[held >= 0].tolist()) == sorted(task.corpus.train.tolist())
    torch.testing.assert_close(held, torch.cat([b.targets for b in epoch(made(folder, carry=False), 1)]))
    for other in (epoch(task, 2), epoch(made(folder, carry=False, seed=1), 1)):
        assert not torch.equal(held, torch.cat([b.targets for b in other]))


def test_several_epochs_read_the_text_once_in_parts_that_follow_each_other(folder: Path) -> None:
    for carry in (True, False):
        whole, parted = made(folder, carry=carry), made(folder, carry=carry, epochs_per_pass=3)
        model = whole.model()
        once = [batch.tokens for batch in whole.batches(model, 2)]
        epochs = [[batch.tokens for batch in parted.batches(model, epoch)] for epoch in (4, 5, 6)]  # the second pass
        assert {len(batches) for batches in epochs} <= {len(once) // 3, -(-len(once) // 3)}
        assert all(torch.equal(a, b) for a, b in zip(chain(*epochs), once, strict=True))
    with pytest.raises(ValueError, match="epochs_per_pass must be at most the text's"):
        made(folder, epochs_per_pass=10_000)


def test_scoring_batches_are_training_text_and_change_nothing(folder: Path) -> None:
    task = made(folder, tokens=120)
    assert task.dataset == "ptb, 120 words"
    model = task.model()
    before, state = torch.get_rng_state(), task.state_dict()
    batches = task.scoring_batches(model, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert task.state_dict() == state
    assert len(batches) == 2
    trained = [task.corpus.end, *task.corpus.train[:120].tolist()]
    pairs = [trained[i : i + 9] for i in range(112)]
    for batch in batches:
        assert batch.tokens.shape == (4, 8)
        assert batch.memory is None
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            assert [*tokens, targets[-1]] in pairs
            assert tokens[1:] == targets[:-1]
    for a, b in zip(batches, task.scoring_batches(model, 3), strict=True):
        assert torch.equal(a.tokens, b.tokens)
    assert not torch.equal(batches[0].tokens, task.scoring_batches(model, 4)[0].tokens)


# --- perplexity and the learning rate


def counted_by_hand(words: list[int], end: int, vocabulary: int, window: int, columns: int) -> float:
    """Perplexity where every place of the window, the sentinel and every word of the vocabulary weigh the same."""
    before, total = [end, *words[:-1]], 0.0
    for i, word in enumerate(words):
        start = i - i % columns  # of the sequence that it is in
        seen = before[max(start, i - window + 1) : i + 1]
        total -= math.log((1 / vocabulary + seen.count(word)) / (len(seen) + 1))
    return math.exp(total / len(words))


@pytest.mark.parametrize("window", [0, 3, 50])
def test_perplexity_is_over_every_word_and_the_window_reaches_over_batches(window: int, folder: Path) -> None:
    for batch, carry in ((1, True), (7, True), (4, False)):
        task = made(folder, window=window, batch=batch, carry=carry)
        model = task.model()
        for p in model.parameters():
            nn.init.zeros_(p)
        words, end, vocabulary = task.corpus.test, task.corpus.end, len(task.corpus.vocabulary)
        columns = math.ceil(len(words) / ptb.STREAMS) if carry else 8
        assert len(words) % columns  # there is padding, which does not count
        expected = counted_by_hand(words.tolist(), end, vocabulary, window, columns)
        assert task.evaluate(model) == pytest.approx(expected, rel=1e-5)


def test_the_rate_falls_where_validation_does_not_get_better(folder: Path) -> None:
    task = made(folder, learning_rate=1e-3)
    model = task.model()
    assert task.learning_rate(0.0) == 1e-3
    told = task.validate(model)
    assert told["log_perplexity"] == pytest.approx(math.log(told["perplexity"]))
    assert task.learning_rate(0.2) == 1e-3
    task.validate(model)  # no better
    assert task.learning_rate(0.4) == 2.5e-4
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0  # another network: the last one's best is no measure of it
    task.validate(model)
    assert task.learning_rate(0.5) == 2.5e-4
    resumed = made(folder, learning_rate=1e-3)
    resumed.load_state_dict(json.loads(json.dumps(task.state_dict())))
    for t in (task, resumed):
        t.validate(model)
        assert t.learning_rate(0.6) == 6.25e-5
    assert task.learning_rate(0.1) == 1e-3  # taken back to an earlier point


@pytest.mark.parametrize("resumed", [False, True])
def test_a_lottery_ticket_s_rate_goes_back_to_what_it_was_at_that_epoch(resumed: bool, folder: Path) -> None:
    task = made(folder, learning_rate=1e-3)
    rates = []
    for epoch, perplexity in enumerate((9.0, 9.5, 8.0, 8.5, 8.6)):  # worse than the best after the second, and so on
        rates.append(task.learning_rate(epoch / 6))
        rates.append(task.learning_rate((epoch + 0.5) / 6))
        task.validated = perplexity, 100
    assert rates[::2] == rates[1::2] == [1e-3, 1e-3, 2.5e-4, 2.5e-4, 6.25e-5]
    if resumed:
        state = json.loads(json.dumps(task.state_dict()))
        task = made(folder, learning_rate=1e-3)
        task.load_state_dict(state)
    for epoch, rate in ((3, 2.5e-4), (2, 2.5e-4), (1, 1e-3), (0, 1e-3)):
        task.validated = 9.9, 90
        assert task.learning_rate(epoch / 6) == rate
    assert task.learning_rate(0.5 / 6) == 1e-3
    task.validated = 9.9, 90
    assert task.learning_rate(1 / 6) == 1e-3  # another network, whose best is not known yet
    task.validated = 9.9, 90
    assert task.learning_rate(2 / 6) == 2.5e-4


# --- whole runs


def test_a_memory_from_before_a_cut_is_left_aside(folder: Path) -> None:
    task = made(folder, dropout=0.0)
    model = task.model()
    part, after = list(task.batches(model, 1))[:2]
    task.training_loss(model, part)
    after = after._replace(memory=task.memory)
    losses = task.loss(model, after).detach(), task.training_loss(model, after).detach()
    torch.testing.assert_close(*losses)
    for which in (0, -1):  # embedding, LSTM: in the tracer's order
        graph = earlycrop.trace(model, lambda m: task.loss(m, part))
        earlycrop.shrink(model, graph, [range(graph.count)[which]])
        now = task.loss(model, after).detach()
    assert now == task.loss(model, after._replace(memory=None)).detach()
    assert now != losses[0]


@pytest.mark.parametrize(
    "method",
    [
        "earlycrop-s",
        pytest.param("crop-s", marks=pytest.mark.slow),
        pytest.param("dense", marks=pytest.mark.slow),
        pytest.param("earlycrop-u", marks=pytest.mark.slow),
        pytest.param("magnitude-s", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_and_resumed_ends_in_the_same_numbers(method: str, folder: Path, tmp_path: Path) -> None:
    options = replace(SMALL, data=str(folder), method=method, sparsity=0.4, rounds=2, decay=1.5, learning_rate=0.03)

    whole, store = until(99, "ptb", options, tmp_path / "whole")
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            until(last, "ptb", options, tmp_path / "stopped")
    resumed, again = until(99, "ptb", options, tmp_path / "stopped")
    assert resumed.value == whole.value
    assert resumed.weight_sparsity == whole.weight_sparsity
    assert (whole.weight_sparsity >= 0.4) == (method != "dense")
    assert whole.metric == "perplexity"
    for a, b in zip(log_of(store), log_of(again), strict=True):
        assert {k: a.get(k) for k in ("loss", "perplexity", "learning_rate")} == {
            k: b.get(k) for k in ("loss", "perplexity", "learning_rate")
        }


def test_a_perplexity_without_end_is_a_training_that_has_diverged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(folder), "--runs", str(tmp_path / "runs"), "--method", "dense", "--epochs", "2"]
    given += ["--embedding", "8", "--widths", "8", "--window", "5", "--batch", "4", "--length", "8", "--dropout", "0"]
    with pytest.raises(SystemExit) as left:
        command_line.main("ptb", [*given, "--learning-rate", "1000", "--clip", "None"])
    assert left.value.code == 1
    assert "the perplexity is inf after epoch 1: training has diverged" in capsys.readouterr().err
    assert "Infinity" not in next((tmp_path / "runs").glob("ptb-*/log.jsonl")).read_text()


@pytest.mark.parametrize("changed", ["vocabulary", "digest of the text"])
def test_a_run_does_not_go_on_with_another_text(changed: str, folder: Path, tmp_path: Path) -> None:
    options = replace(SMALL, data=str(folder), epochs=2, widths=(7,))
    with pytest.raises(KeyboardInterrupt):
        until(1, "ptb", options, tmp_path / "runs")
    train = folder / "ptb.train.txt"
    held = train.read_text()
    train.write_text(held.replace("w0 ", "new ", 1) if changed == "vocabulary" else held.replace("w0 w5", "w5 w0"))
    with pytest.raises(RunError, match=rf"any more \(.*{changed} was .+\): give the old ones, or move .* --runs"):
        until(9, "ptb", options, tmp_path / "runs")
    train.write_text(held)
    until(9, "ptb", options, tmp_path / "runs")


def test_it_learns_what_follows_what(tmp_path: Path) -> None:
    """A line begins with any of twelve words, and each tells the next: 12^(1/9) = 1.32 is the best perplexity.

    Without knowledge of how long a line is, an end is one in eight after each word: exp of (ln 12 + 8 * 0.377) / 9.
    """
    text(tmp_path / "text", 4000)
    given = ["--data", str(tmp_path / "text"), "--runs", str(tmp_path), "--method", "dense", "--epochs", "6"]
    given += ["--embedding", "16", "--widths", "16", "--batch", "8", "--length", "12", "--dropout", "0"]
    result = command_line.main("ptb", [*given, "--learning-rate", "0.02"])
    lines = [json.loads(line) for line in next(tmp_path.glob("ptb-*/log.jsonl")).read_text().splitlines()]
    assert all(b["perplexity"] < a["perplexity"] for a, b in pairwise(lines[:3]))
    assert 12 ** (1 / 9) < result.value < math.exp((math.log(12) + 8 * 0.377) / 9)


@pytest.mark.slow
@pytest.mark.skipif(not PTB.is_dir(), reason="the Penn Treebank is not here")
def test_the_tiny_preset_learns_the_penn_treebank(tmp_path: Path) -> None:
    result = command_line.main(
        "ptb", ["--preset", "tiny", "--data", str(PTB), "--runs", str(tmp_path), "--method", "dense"]
    )
    assert result.value < 350
