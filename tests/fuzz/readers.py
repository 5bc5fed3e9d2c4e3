"""Every reader of files that others may have made: how a sound sample is written, and how it is read."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from rich.console import Console
from torch import Tensor, nn

import earlycrop
from leaderboards import __main__ as leaderboards
from tasks import cartpole
from tasks.depth import nyu_dataset
from tasks.runner.checkpoints import branch_off, check_branch
from tasks.runner.store import Store, configuration
from tasks.text import corpus, glue_dataset
from tasks.vision import images
from tests.leaderboards.results import DENSE, EARLY, write_run
from tests.tasks.tiny_data import parquet, pictures, rooms, scenes, sentence_tables, text
from tests.toy import Net, mlp


@dataclass(frozen=True)
class Reader:
    """A reader: a function that writes a sound sample into a folder, and one that reads that folder.

    ``damaged`` are the patterns of the files that are damaged. Where ``exact``, what is read must be as it was written,
    or refused; else other content is other data.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    damaged: tuple[str, ...]
    exact: bool = False
    sound: bool = True
    """Whether the sample is read, and not refused."""
    weight: int = 6
    """How many of the cases are the reader's, beside others: those that draw pictures take long."""
    imports: tuple[str, ...] = ()
    """What is imported when a sample is written or read, and takes long."""


def network() -> nn.Module:
    """Return a network of several kinds of layers, always the same."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 8))
    return Net(
        lambda m, x: m.last(m.lstm(m.layers(x)[None])[0]), layers=layers, lstm=nn.LSTM(8, 6), last=nn.Linear(6, 3)
    )


def write_model(folder: Path) -> None:
    model = network()
    graph = earlycrop.trace(model, torch.randn(2, 1, 8, 8))
    earlycrop.shrink(model, graph, range(0, graph.count, 3))
    earlycrop.save(model, folder)


def read_model(folder: Path) -> Any:
    model = network()
    try:
        earlycrop.load(folder, model)
    except earlycrop.SavingError:
        fresh = network().state_dict()
        if any(not torch.equal(t, fresh[name]) for name, t in model.state_dict().items()):
            raise AssertionError("the model was changed before it was refused") from None
        raise
    model(torch.zeros(2, 1, 8, 8))
    return [t.tolist() for t in model.state_dict().values()]


STATE = {"step": 3, "mean": torch.arange(9.0), "nested": {"1": [1, 2.5, None, {"a": torch.ones(2, 2)}], "b": "text"}}


def read_state(folder: Path) -> Any:
    file = folder / "state.safetensors"
    state = earlycrop.load_state(file)
    return as_lists(state if b"sha256" in file.read_bytes() else STATE)  # without its checksum it is another state


def as_lists(value: Any) -> Any:
    """Return a nest with lists in place of tensors, which can be compared."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_lists(each) for key, each in value.items()}
    return [as_lists(each) for each in value] if isinstance(value, list) else value


OPTIONS = cartpole.Options(epochs=3, widths=(8, 8), agents=2)
CONFIG = configuration("cartpole", OPTIONS)
TRUNK = configuration("cartpole", dataclasses.replace(OPTIONS, method="dense", schedule="constant"))


def write_checkpoint(runs: Path, config: dict[str, Any] = CONFIG) -> None:
    store, model = Store(runs, config), mlp()
    log = [{"epoch": epoch, "parameters": 403, "event": None} for epoch in (1, 2)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = earlycrop.Pruner(model, optimizer, lambda m, b: m(b).sum(), "earlycrop-s", 0.5, epochs=3)
    pruner.epoch = 2
    state = {
        "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict(), "task": {"games": 3}, "cuda": [],
        "epoch": 2, "rng": torch.get_rng_state(), "seconds": 1.5, "log": log, "spent": None, "data": {"games": 3},
        "keep": [2],
    }  # fmt: skip
    log[-1]["parameters"] = sum(p.numel() for p in model.parameters())
    store.log(log)
    store.save(model, 2, state)
    store.finish(dataclasses.replace(DENSE, run=store.id))
    store.close()


def read_checkpoint(runs: Path) -> Any:
    store = Store(runs, CONFIG)
    try:
        model = mlp()
        state = store.load(model, {"games": 3})
        if state is None:
            return None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        pruner = earlycrop.Pruner(model, optimizer, lambda m, b: m(b).sum(), "earlycrop-s", 0.5, epochs=3)
        optimizer.load_state_dict(state["optimizer"])
        pruner.load_state_dict(state["pruner"])
        return state["epoch"], [p.tolist() for p in model.parameters()]
    finally:
        store.close()


def read_run(runs: Path) -> Any:
    store = Store(runs, CONFIG)
    try:
        result = store.result()
        return None if result is None else result.value
    finally:
        store.close()


def read_trunk(runs: Path) -> Any:
    (folder,) = [place for place in runs.iterdir() if place.is_dir()]
    options = dataclasses.replace(OPTIONS, trigger="2", branch_from=folder)
    config = configuration("cartpole", options)
    check_branch(options, config)
    return branch_off(options, config, mlp(), {"games": 3})["epoch"]


def call(*arguments: str) -> str:
    """Run a command of the leaderboards; return what it prints."""
    console = Console(width=200, file=io.StringIO())
    code = leaderboards.main(list(arguments), console)
    assert isinstance(console.file, io.StringIO)
    if code and not (code == 1 and arguments[0] == "check"):  # which has found what is wrong
        raise SystemExit(code)
    return console.file.getvalue()


def write_runs(folder: Path) -> None:
    for result in (DENSE, EARLY):
        log = write_run(folder / "runs", result, epochs=3) / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for line in lines:
            line["trigger"] = {"per_rate": 1 / (1 + line["epoch"]), "level": 0.5, "fall": 0.7, "mask_distance": 0.1}
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_records(folder: Path) -> None:
    write_runs(folder)
    call("collect", "--runs", str(folder / "runs"), "--out", str(folder / "out"))


def read_records(folder: Path) -> Any:
    call("show", "--out", str(folder / "out"))
    call("page", str(folder / "page.html"), "--out", str(folder / "out"))
    return call("check", "--runs", str(folder / "none"), "--out", str(folder / "out"))


def read_runs(folder: Path) -> Any:
    call("trigger", "d0", "--runs", str(folder / "runs"))
    return call("collect", "--runs", str(folder / "runs"), "--out", str(folder / "new"))


def read_images(folder: Path) -> Any:
    train, test = images.read(str(folder), "CIFAR-10")
    return [len(split.pixels(1e9) if split.pixels(1e9) is not None else split.labels) for split in (train, test)]


def write_folders(folder: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for i, (image, label) in enumerate(zip(*pictures(count, 16, 2), strict=True)):
            (folder / split / f"kind {label}").mkdir(parents=True, exist_ok=True)
            image.save(folder / split / f"kind {label}" / f"{i}.{'png' if i % 2 else 'jpg'}")


def write_archive(folder: Path) -> None:
    """CIFAR's archive in form, which its checksums refuse, whatever it holds."""
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}))


def write_labeled(folder: Path) -> None:
    import h5py

    colours, depths = rooms(6, 12, 16)
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / nyu_dataset.LABELED, "w") as file:
        file["images"] = colours.transpose(0, 1, 3, 2)
        file.create_dataset("depths", data=depths.transpose(0, 2, 1), chunks=(2, 16, 12), compression="gzip")
    splits = {"trainNdxs": np.array([[1], [2], [4], [5]]), "testNdxs": np.array([[3], [6]])}
    scipy.io.savemat(folder / nyu_dataset.SPLITS, splits)


def read_pairs(folder: Path) -> Any:
    train, val, name = nyu_dataset.read(str(folder))
    for pairs in (train, val):
        for i in range(len(pairs)):
            pairs.read(i)
    return name


def read_sentences(folder: Path) -> Any:
    return {
        name: len(split.labels)
        for name, split in glue_dataset.read(str(folder), glue_dataset.GLUE["rte"], "rte").items()
    }


def write_lines(folder: Path) -> None:
    import datasets

    folder.mkdir(exist_ok=True)
    for split in ("train", "valid", "test"):
        datasets.Dataset.from_dict({"text": ["a b c", "d e", "f"]}).to_parquet(folder / f"{split}.parquet")


def read_corpus(folder: Path) -> Any:
    return len(corpus.read(str(folder)).vocabulary)


READERS: dict[str, Reader] = {
    # those that need less memory first
    "model": Reader(write_model, read_model, ("*.safetensors",), exact=True, imports=("torch._dynamo",)),
    "state": Reader(
        lambda folder: earlycrop.save_state(STATE, folder / "state.safetensors"),
        read_state,
        ("*.safetensors",),
        exact=True,
    ),
    "checkpoint": Reader(write_checkpoint, read_checkpoint, ("*/checkpoint/*/*", "*/log.jsonl", "*/config.json")),
    "result": Reader(write_checkpoint, read_run, ("*/result.json", "*/config.json")),
    "trunk": Reader(
        lambda runs: write_checkpoint(runs, TRUNK),
        read_trunk,
        ("*/config.json", "*/log.jsonl", "*/checkpoint/*/state.safetensors"),
    ),
    "text": Reader(lambda folder: text(folder, 80), read_corpus, ("*.txt",)),
    "HDF5 files": Reader(lambda folder: scenes(folder, 2, 1), read_pairs, ("*/*/*.h5",)),
    "MATLAB files": Reader(write_labeled, read_pairs, ("*.mat",)),
    "records": Reader(write_records, read_records, ("out/records/*/*.json", "out/*.csv"), weight=1),
    "runs": Reader(write_runs, read_runs, ("runs/*/*.json", "runs/*/log.jsonl"), weight=1),
    "folder of images": Reader(write_folders, read_images, ("*/*/*",), weight=1, imports=("torchvision",)),
    "CIFAR archive": Reader(write_archive, read_images, ("*/*",), sound=False, weight=1, imports=("torchvision",)),
    "parquet of images": Reader(
        lambda f: parquet(f, 3, 16, {"train": 6, "test": 3}), read_images, ("*.parquet",), imports=("datasets",)
    ),
    "parquet of lines": Reader(write_lines, read_corpus, ("*.parquet",), imports=("datasets",)),
    "parquet of sentences": Reader(
        lambda f: sentence_tables(f, "rte", (8, 4)), read_sentences, ("*.parquet",), imports=("datasets",)
    ),
}
