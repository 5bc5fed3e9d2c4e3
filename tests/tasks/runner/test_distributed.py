"""``torchrun -m tasks.cifar10``: a run on several processes is that on one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore, destroy_process_group, init_process_group

import earlycrop
import tasks
from tasks import cifar10
from tasks.data.batches import statistics
from tasks.runner import command_line, distributed
from tasks.runner.machine import cpu_model
from tasks.vision.augmentation import Augmentation
from tasks.vision.feed import Feed, InMemory, Streamed
from tasks.vision.images import read
from tests.tasks.runner import plain_network
from tests.tasks.tiny_data import parquet
from tests.toy import mlp, sgd, train_epoch, vectors

TINY = (
    *("--epochs", "4", "--batch", "16", "--scoring", "2", "--validation", "0.23", "--learning-rate", "0.05"),
    *("--sparsity", "0.5", "--clip", "1", "--test-epochs", "2"),
)


def launched(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(tasks.__file__).parents[1]
    return subprocess.run([*line, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def options(place: Path, method: str, *more: str) -> list[str]:
    return [*TINY, "--data", str(place / "data"), "--runs", str(place / "runs"), "--method", method, *more]


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    """The log without times, and without what a process looks at alone."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
        if line["event"]:
            del line["event"]["seconds"], line["event"]["difference"], line["event"]["costs"]["macs"]
    return lines


def close(one: Any, other: Any) -> None:
    """The same but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-3, abs=1e-4)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_two_processes_are_one_and_resume(method: str, tmp_path: Path) -> None:
    """The images augmented alike, the same cut, what is learned, and every metric; no batch norm tells them apart."""
    parquet(tmp_path / "data", 4, 32, {"train": 101, "test": 41})
    more = ("--network", "plain", "--keep", "2")
    assert "plain" in plain_network.NETWORKS
    one = command_line.main("cifar10", options(tmp_path, method, *more))
    done = launched("tests.tasks.runner.plain_network", "cifar10", *options(tmp_path, method, *more))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{method}: accuracy ") == 1, "one process speaks"
    alone = tmp_path / "runs" / one.run
    (folder,) = (f for f in (tmp_path / "runs").iterdir() if f != alone)
    for ours, theirs in zip(log_without_times(folder), log_without_times(alone), strict=True):
        close(ours, theirs)
    result, other = (json.loads((f / "result.json").read_text()) for f in (folder, alone))
    assert (result["device"], other["device"]) == (f"2 x {cpu_model()}", cpu_model())
    for key in ("value", "weight_sparsity", "node_sparsity", "macs", "parameters", "pruned_epoch", "pruned_why"):
        close(result[key], other[key])
    weights = load_file(folder / "model.safetensors")
    torch.testing.assert_close(weights, load_file(alone / "model.safetensors"), rtol=1e-2, atol=1e-3)
    uninterrupted = log_without_times(folder)
    (folder / "result.json").unlink()
    for name in ("epoch-00003", "epoch-00004"):
        shutil.rmtree(folder / "checkpoint" / name, ignore_errors=True)
    again = launched("tests.tasks.runner.plain_network", "cifar10", *options(tmp_path, method, *more))
    assert again.returncode == 0, again.stderr
    assert log_without_times(folder) == uninterrupted
    resumed = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.slow
def test_the_command_of_a_task_with_batch_norms(tmp_path: Path) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 101, "test": 41})
    more = ("--network", "resnet8-cifar", "--optimizer", "adam", "--learning-rate", "0.01", "--validation", "0")
    done = launched("tasks.cifar10", *options(tmp_path, "earlybird", *more))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["weight_sparsity"] >= 0.5
    refused = launched("tasks.cartpole", "--runs", str(tmp_path / "others"))
    assert refused.returncode != 0
    assert refused.stderr.count("error: cartpole is trained by one process: start it without torchrun") == 1
    assert not (tmp_path / "others").exists()


def test_a_model_is_wrapped_again_after_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses a second step where it was not."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model, batches = mlp(), vectors()
    optimizer, replicas = sgd(model), distributed.Replicas()
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        train_epoch(replicas(model), optimizer, batches)
        assert replicas(model) is replicas(model)
        earlycrop.shrink(model, earlycrop.trace(model, batches[0][0]), [0, 20], optimizer)
        train_epoch(replicas(model), optimizer, batches)
        assert replicas(model) is replicas(model)
        model[0].requires_grad_(False)
        train_epoch(replicas(model), optimizer, batches)
    finally:
        destroy_process_group()


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surroundings of the second of three processes."""
    variables = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second")
def test_what_processes_cannot_share_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path, 4, 32, {"train": 60, "test": 9})
    with pytest.raises(ValueError, match="a batch of 16 has no 3 equal parts, one a process: change --batch"):
        cifar10.make(cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=16))
    with pytest.raises(ValueError, match="each process takes a GPU of its own, not all of them cuda:1: leave out"):
        distributed.join("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="3 processes need as many GPUs, and there are 2: lower --nproc-per-node"):
        distributed.join("auto")


@pytest.mark.usefixtures("second")
def test_parts_of_batches_by_hand() -> None:
    assert distributed.local_slices(torch.arange(14), 6).tolist() == [
        2,
        3,
        6 + 2,
        6 + 3,
    ]  # of the last two, no one has any
    assert distributed.local_slices(torch.arange(9), 6).tolist() == [2, 3, 7]


def test_each_process_has_its_part_of_the_same_images(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Those that are held are augmented as by one process; of streamed ones, the labels tell."""
    parquet(tmp_path, 10, 32, {"train": 40, "test": 9})
    train, _ = read(str(tmp_path), "CIFAR-10")
    pixels, cpu = train.pixels(1e9), torch.device("cpu")
    assert pixels is not None
    augmentation = Augmentation(padding=4, flip=True)

    def drawn(feed: Feed) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(feed.shuffled(12, cpu, (0, 1, 0), augmentation))

    feeds: list[Feed] = [InMemory(pixels, train.labels, 32, statistics(pixels)), Streamed(train, 32)]
    of_one_process = [drawn(feed) for feed in feeds]
    request.getfixturevalue("second")
    in_memory, streamed = (drawn(feed) for feed in feeds)
    assert len(in_memory) == len(streamed) == 3
    for (images, labels), (every, all_labels) in zip(in_memory, of_one_process[0], strict=True):
        assert torch.equal(images, every[4:8])
        assert torch.equal(labels, all_labels[4:8])
    for (images, labels), (_, all_labels) in zip(streamed, of_one_process[1], strict=True):
        assert images.shape == (4, 3, 32, 32)
        assert torch.equal(labels, all_labels[4:8])
