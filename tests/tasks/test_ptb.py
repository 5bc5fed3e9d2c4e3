"""Language modelling: batches and their memory, perplexity, the learning rate, and whole runs."""

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
from tasks.runner import command_line
from tasks.runner.errors import RunError
from tasks.runner.options import check_values
from tasks.text.corpus import Batch
from tests.tasks.runs import log_of, until
from tests.tasks.tiny_data import text
from tests.tasks.tiny_tasks import PTB_OPTIONS, ptb_task

pytestmark = pytest.mark.usefixtures("without_type_checks")

PTB = Path(__file__).parents[2] / "data" / "ptb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text(tmp_path / "text")
    return tmp_path / "text"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"window": -1}, "window must be 0 or more, not -1"),
        ({"widths": ()}, "widths must be 1 or more, not"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, not nan"),
        ({"decay": 0.5}, "decay must be 1 or more"),
        ({"clip": 0.0}, "clip must be above 0, not 0"),
    ],
)
def test_options_out_of_range_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(replace(PTB_OPTIONS, **changed))


def test_contiguous_batches_carry_the_memory_of_the_last_step(folder: Path) -> None:
    task = ptb_task(folder, dropout=0.0)
    model = task.model()
    batches, before = [], None
    for batch in task.batches(model, 1):
        assert batch.memory is before
        task.training_loss(model, batch)
        before = task.memory
        batches.append(batch)
    assert len(batches) == task.batches_per_epoch == math.ceil(math.ceil(450 / 4) / 8)
    likelihoods = model(torch.cat([b.tokens for b in batches], 1)).log_likelihood(
        torch.cat([b.targets.clamp(min=0) for b in batches], 1)
    )
    counted = torch.cat([b.targets for b in batches], 1) >= 0
    sizes = torch.tensor([float((b.targets >= 0).sum()) for b in batches])
    losses = torch.stack([task.loss(model, b) for b in batches])
    torch.testing.assert_close((losses * sizes).sum() / sizes.sum(), -likelihoods[counted].mean())
    assert next(iter(task.batches(model, 2))).memory is None


def test_chunks_are_shuffled_by_epoch_and_seed_and_start_from_nothing(folder: Path) -> None:
    task = ptb_task(folder, carry=False)
    model = task.model()

    def epoch(task: ptb.LanguageModelling, number: int) -> list[Batch]:
        return list(task.batches(model, number))

    first = epoch(task, 1)
    assert len(first) == task.batches_per_epoch == math.ceil(math.ceil(450 / 8) / 4)
    assert all(b.memory is None for b in first)
    targets = torch.cat([b.targets for b in first])
    assert sorted(targets[targets >= 0].tolist()) == sorted(task.corpus.train.tolist())
    torch.testing.assert_close(targets, torch.cat([b.targets for b in epoch(ptb_task(folder, carry=False), 1)]))
    for other in (epoch(task, 2), epoch(ptb_task(folder, carry=False, seed=1), 1)):
        assert not torch.equal(targets, torch.cat([b.targets for b in other]))


def test_several_epochs_read_the_text_once_in_parts_that_follow_each_other(folder: Path) -> None:
    for carry in (True, False):
        at_once, parted = ptb_task(folder, carry=carry), ptb_task(folder, carry=carry, epochs_per_pass=3)
        model = at_once.model()
        once = [batch.tokens for batch in at_once.batches(model, 2)]
        epochs = [[batch.tokens for batch in parted.batches(model, epoch)] for epoch in (4, 5, 6)]  # the second pass
        assert {len(batches) for batches in epochs} <= {len(once) // 3, -(-len(once) // 3)}
        assert all(torch.equal(a, b) for a, b in zip(chain(*epochs), once, strict=True))
    with pytest.raises(ValueError, match="epochs_per_pass must be at most the text's"):
        ptb_task(folder, epochs_per_pass=10_000)


def test_scoring_batches_are_training_text_and_change_nothing(folder: Path) -> None:
    task = ptb_task(folder, tokens=120)
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
        task = ptb_task(folder, window=window, batch=batch, carry=carry)
        model = task.model()
        for p in model.parameters():
            nn.init.zeros_(p)
        words, end, vocabulary = task.corpus.test, task.corpus.end, len(task.corpus.vocabulary)
        columns = math.ceil(len(words) / ptb.STREAMS) if carry else 8
        assert len(words) % columns  # there is padding, which does not count
        expected = counted_by_hand(words.tolist(), end, vocabulary, window, columns)
        assert task.evaluate(model) == pytest.approx(expected, rel=1e-5)


def test_the_rate_falls_where_validation_does_not_get_better(folder: Path) -> None:
    task = ptb_task(folder, learning_rate=1e-3)
    model = task.model()
    assert task.learning_rate(0.0) == 1e-3
    measured = task.validate(model)
    assert measured["log_perplexity"] == pytest.approx(math.log(measured["perplexity"]))
    assert task.learning_rate(0.2) == 1e-3
    task.validate(model)  # no better
    assert task.learning_rate(0.4) == 2.5e-4
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0  # another network: the last one's best is no measure of it
    task.validate(model)
    assert task.learning_rate(0.5) == 2.5e-4
    resumed = ptb_task(folder, learning_rate=1e-3)
    resumed.load_state_dict(json.loads(json.dumps(task.state_dict())))
    for t in (task, resumed):
        t.validate(model)
        assert t.learning_rate(0.6) == 6.25e-5
    assert task.learning_rate(0.1) == 1e-3  # taken back to an earlier point


@pytest.mark.parametrize("resumed", [False, True])
def test_a_lottery_ticket_s_rate_goes_back_to_what_it_was_at_that_epoch(resumed: bool, folder: Path) -> None:
    task = ptb_task(folder, learning_rate=1e-3)
    rates = []
    for epoch, perplexity in enumerate((9.0, 9.5, 8.0, 8.5, 8.6)):  # worse than the best after the second, and so on
        rates.append(task.learning_rate(epoch / 6))
        rates.append(task.learning_rate((epoch + 0.5) / 6))
        task.validated = perplexity, 100
    assert rates[::2] == rates[1::2] == [1e-3, 1e-3, 2.5e-4, 2.5e-4, 6.25e-5]
    if resumed:
        state = json.loads(json.dumps(task.state_dict()))
        task = ptb_task(folder, learning_rate=1e-3)
        task.load_state_dict(state)
    for epoch, rate in ((3, 2.5e-4), (2, 2.5e-4), (1, 1e-3), (0, 1e-3)):
        task.validated = 9.9, 90
        assert task.learning_rate(epoch / 6) == rate
    assert task.learning_rate(0.5 / 6) == 1e-3
    task.validated = 9.9, 90
    assert task.learning_rate(1 / 6) == 1e-3  # another network, whose best is not known yet
    task.validated = 9.9, 90
    assert task.learning_rate(2 / 6) == 2.5e-4


def test_a_memory_from_before_a_cut_is_left_aside(folder: Path) -> None:
    task = ptb_task(folder, dropout=0.0)
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
    options = replace(
        PTB_OPTIONS, data=str(folder), method=method, sparsity=0.4, rounds=2, decay=1.5, learning_rate=0.03
    )

    uninterrupted, store = until(99, "ptb", options, tmp_path / "whole")
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            until(last, "ptb", options, tmp_path / "stopped")
    resumed, again = until(99, "ptb", options, tmp_path / "stopped")
    assert resumed.value == uninterrupted.value
    assert resumed.weight_sparsity == uninterrupted.weight_sparsity
    assert (uninterrupted.weight_sparsity >= 0.4) == (method != "dense")
    assert uninterrupted.metric == "perplexity"
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
    options = replace(PTB_OPTIONS, data=str(folder), epochs=2, widths=(7,))
    with pytest.raises(KeyboardInterrupt):
        until(1, "ptb", options, tmp_path / "runs")
    train = folder / "ptb.train.txt"
    words = train.read_text()
    train.write_text(words.replace("w0 ", "new ", 1) if changed == "vocabulary" else words.replace("w0 w5", "w5 w0"))
    with pytest.raises(RunError, match=rf"any more \(.*{changed} was .+\): give the old ones, or move .* --runs"):
        until(9, "ptb", options, tmp_path / "runs")
    train.write_text(words)
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
