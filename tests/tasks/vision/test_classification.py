"""Tasks of images: a run from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import earlycrop
from tasks import cifar10
from tasks.nets.classifiers import network
from tasks.runner import arguments, command_line
from tests.tasks.tiny_data import parquet
from tests.tasks.vision.test_images import broken_image, folders

pytestmark = pytest.mark.usefixtures("without_type_checks")
TINY = [
    *("--network", "resnet8-cifar", "--epochs", "4", "--batch", "16", "--scoring", "1", "--validation", "0.2"),
    *("--optimizer", "adam", "--learning-rate", "0.01"),
]


def test_an_image_that_a_worker_cannot_read_is_named_by_its_place_in_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "data")
    for place in sorted((tmp_path / "data").rglob("*.png"))[::3]:  # of two sizes, so they are read when asked for
        Image.open(place).resize((40, 32)).save(place)
    broken_image(tmp_path / "data")
    where = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--size", "32"]
    with pytest.raises(SystemExit) as stopped:
        command_line.main("imagenet", [*where, *TINY, "--batch", "4", "--method", "dense"])
    assert stopped.value.code == 2
    output = capsys.readouterr().err
    assert "image 0 of the train split cannot be read (" in output
    assert "Traceback" not in output


def run(place: Path, *more: str) -> tuple[Any, list[dict[str, Any]]]:
    result = command_line.main("cifar10", [*TINY, "--data", str(place / "data"), "--runs", str(place / "runs"), *more])
    folder = place / "runs" / result.run
    return result, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_is_cut_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 100, "test": 40})
    result, log = run(
        tmp_path, "--method", "earlycrop-s", "--sparsity", "0.5", "--epochs", "8", "--test-epochs", "1", "3"
    )
    assert (result.metric, result.split, result.dataset) == ("accuracy", "test", "CIFAR-10")
    assert result.value > 0.5, "four greys are easily told apart"
    assert result.weight_sparsity >= 0.5
    assert result.macs < result.dense_macs
    speedup = result.dense_batch_ms / result.batch_ms
    assert result.of_macs_limit == pytest.approx(speedup / (result.dense_macs / result.macs))
    assert result.step_bytes > 0 < result.dense_step_bytes
    assert all(0 <= line["validation_accuracy"] <= 1 for line in log)
    assert [line["epoch"] for line in log if "test_accuracy" in line] == [1, 3]
    (event,) = (line["event"] for line in log if line["event"])
    assert event["prediction_moved"] > 0
    assert {"validation_accuracy_before", "validation_accuracy_after"} <= set(event)
    model = earlycrop.load(tmp_path / "runs" / result.run, network("resnet8-cifar", 4, 32))
    task = cifar10.make(cifar10.Options(data=str(tmp_path / "data"), network="resnet8-cifar"))
    assert task.evaluate(model) == result.value


def test_other_images_of_the_same_labels_are_other_data(tmp_path: Path) -> None:
    """Both of those held in memory and of those read from files, which are of two sizes here."""
    for kind, sizes in (("memory", {(32, 32)}), ("files", {(32, 32), (40, 32)})):
        digests = []
        for shade in (10, 20):
            folder = tmp_path / kind / str(shade)
            folders(folder)
            for i, place in enumerate(sorted(folder.rglob("*.png"))):
                colour = Image.fromarray(np.full((32, 32, 3), shade + i, np.uint8)).resize(
                    sorted(sizes)[i % len(sizes)]
                )
                colour.save(place, compress_level=shade // 10)
            task = cifar10.make(cifar10.Options(data=str(folder), network="resnet8-cifar"))
            digests.append(task.trained_on())
        assert digests[0] | {"digest of the images": 0} == digests[1] | {"digest of the images": 0}
        assert digests[0]["digest of the images"] != digests[1]["digest of the images"]


def test_the_rate_follows_every_batch(tmp_path: Path) -> None:
    parquet(tmp_path, 4, 32, {"train": 64, "test": 8})
    task = cifar10.make(
        cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=16, validation=0.0, epochs=2, seed=3)
    )
    from tasks.runner.distributed import Replicas
    from tasks.runner.training import train

    assert task.batches_per_epoch == 4
    model = task.model()
    optimizer = task.optimizer(model)
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    train(task, model, optimizer, 2, lambda done: task.learning_rate((1 + done) / 2), Replicas())
    expected = [0.1 * (1 + np.cos(np.pi * (1 + done) / 2)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx(expected)


def test_scores_are_taken_on_training_images_as_they_are(tmp_path: Path) -> None:
    parquet(tmp_path, 4, 32, {"train": 64, "test": 8})
    task = cifar10.make(cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=16, scoring=2))
    model = task.model()
    before = torch.get_rng_state()
    one, two = (torch.cat([images for images, _ in task.scoring_batches(model, e)]) for e in (1, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    everything = torch.cat(
        [i for i, _ in task.training.plain(torch.arange(len(task.training)), 64, torch.device("cpu"))]
    )  # type: ignore[attr-defined]
    distance = (
        torch.cdist(one.flatten(1), everything.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    )
    assert len(one) == 32
    assert float(distance.max()) == 0


@pytest.mark.slow
def test_pruned_on_another_device_it_is_the_same_network_and_the_dense_one_is_not_measured(tmp_path: Path) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 100, "test": 40})
    more = ("--method", "crop-s", "--sparsity", "0.5", "--epochs", "2")
    plain, _ = run(tmp_path, *more)
    elsewhere, log = run(tmp_path, *more, "--prune-on", "cpu")
    assert (elsewhere.value, elsewhere.macs, elsewhere.weight_sparsity) == (
        plain.value,
        plain.macs,
        plain.weight_sparsity,
    )
    assert (elsewhere.dense_macs, elsewhere.dense_batch_ms, elsewhere.dense_step_bytes) == (None, None, None)
    assert log[0]["epoch"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "4"], "size must be 8 or more, not 4"),
        (["--validation", "1"], "validation must be 0 or more and below 1"),
        (["--smallest-crop", "0"], "smallest_crop must be above 0 and at most 1, not 0"),
        (["--test-epochs", "9"], "test_epochs must be epochs from 1 to 4, not [9]"),
        (["--network", "nothing"], "there is no network 'nothing'"),
        (["--record"], "cifar10 has nothing to draw: leave out --record"),
        (["--method", "crop-s", "--prune-on", "nowhere"], "there is no device 'nowhere' here"),
        (["--method", "earlycrop-s", "--prune-on", "cpu"], "--prune-on is for what is pruned before training"),
    ],
)
def test_wrong_options_are_a_sentence(more: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 20, "test": 8})
    with pytest.raises(SystemExit) as left:
        run(tmp_path, *more)
    assert left.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("inputs", "layout"), [(5, torch.contiguous_format), (8, torch.channels_last)])
def test_a_network_that_torch_cannot_train_with_channels_last_lies_in_the_usual_way(
    inputs: int, layout: torch.memory_format, tmp_path: Path
) -> None:
    """With 5 channels into a strided convolution of 1 x 1, torch would break the process's memory in training."""
    parquet(tmp_path, classes=3, side=8, counts={"train": 60, "test": 12})
    options = arguments.parse(cifar10, ["--data", str(tmp_path), "--network", "resnet8-cifar", "--batch", "8"])
    task = cifar10.make(options)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, inputs, 3, padding=1), torch.nn.Conv2d(inputs, 10, 1, 2))
    for images, _ in (next(iter(task.batches(model, 1))), task.scoring_batches(model, 1)[0]):
        for tensor in (images, model[0].weight):
            assert tensor.is_contiguous(memory_format=layout)
        model(images).square().sum().backward()
