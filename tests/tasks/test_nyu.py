"""Depth regression: options, batches, the baseline, and whole runs."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from tasks import nyu
from tasks.depth.frames import reduced
from tasks.depth.metrics import errors_of_mean
from tasks.depth.nyu_dataset import LABELED, read
from tasks.depth.views import images_seen, middle
from tasks.nets import fcrn
from tasks.runner import command_line
from tasks.runner.options import check_values
from tests.tasks.runs import log_of, until
from tests.tasks.tiny_data import scenes
from tests.tasks.tiny_tasks import NYU_OPTIONS, nyu_task

pytestmark = pytest.mark.usefixtures("without_type_checks")

CPU = torch.device("cpu")


class Narrow(nn.Module):
    """What a ResNet is to the network: five halvings, here to 64 channels, and ``fc`` for their number."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        widths = (3, 16, 16, 32, 32, 64)
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            setattr(self, f"layer{i}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (16, 48)}, "size must be 32 or more"),
        ({"scale": 0.9}, "scale must be 1 or more, not 0.9"),
        ({"colour": 1.0}, "colour must be 0 or more and below 1"),
        ({"rotation": math.inf}, "rotation must be 0 or more, not inf"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"clip": -1.0}, "clip must be above 0"),
        ({"batch": 0}, "batch must be 1 or more"),
    ],
)
def test_options_out_of_range_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(replace(NYU_OPTIONS, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "data/nowhere"}, f"there is no folder data/nowhere: --data takes one that holds {LABELED}"),
        ({"validation": 0.999}, "no training frames left: lower --validation"),
    ],
)
def test_wrong_options_are_a_sentence(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    scenes(tmp_path)
    with pytest.raises(ValueError, match=message):
        nyu.make(replace(NYU_OPTIONS, **{"data": str(tmp_path), **changed}))


def test_the_mean_depth_is_a_baseline_of_its_own(tmp_path: Path) -> None:
    task = nyu_task(tmp_path / "data", validation=0.0)
    train, val, _ = read(str(tmp_path / "data"))
    size = (34, 51)
    deep = [reduced(*pairs.read(i), size)[1] for pairs in (train, val) for i in range(len(pairs))]
    mean = torch.cat([d[d > 0] for d in deep[: len(train)]]).double().mean()
    window = [d[1:33, 1:49] for d in deep[len(train) :]]  # 32 x 48 in the middle of 34 x 51, to the pixel or half of it
    by_hand = torch.cat([(d[d > 0] - mean).square() for d in window]).mean().sqrt()
    assert errors_of_mean(task.training, task.test, (32, 48), 4)["rmse"] == pytest.approx(float(by_hand), rel=0.01)


def test_frames_without_a_reading_are_skipped_counted_and_told_once(tmp_path: Path) -> None:
    scenes(tmp_path)
    for i in range(3):
        with h5py.File(tmp_path / f"train/den_1/{i:05d}.h5", "r+") as file:
            file["depth"][()] = np.zeros((48, 64), np.float32)
    task = nyu_task(tmp_path, validation=0.0)
    model = task.model()
    with pytest.warns(UserWarning, match="without a reading in view are skipped") as caught:
        sizes = [len(truth) for _, truth in task.batches(model, 1)]
    assert (sum(sizes), task.log(), len(caught)) == (13, {"skipped": 3}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images, truth in task.batches(model, 2):
            assert len(images) == len(truth)
            assert (truth > 0).flatten(1).any(1).all()
    for path in (tmp_path / "val/hall").iterdir():
        with h5py.File(path, "r+") as file:
            file["depth"][()] = np.full((48, 64), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"no pixel of the split val has a reading: depths are all 0 or not finite"):
        nyu_task(tmp_path)


def test_scoring_batches_are_training_frames_as_they_are(tmp_path: Path) -> None:
    task = nyu_task(tmp_path / "data")
    model = task.model()
    state = torch.get_rng_state()
    batches = task.scoring_batches(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(truth) for _, truth in batches] == [4, 4]
    plain, _ = zip(*task.training.batches(torch.arange(len(task.training)), 1, CPU), strict=True)
    known = [images_seen(image, middle(1, CPU), (32, 48))[0] for image in plain]
    for images, truth in batches:
        assert truth.shape[1:] == (16, 32)
        assert all(any(torch.equal(image, each) for each in known) for image in images)


@pytest.mark.parametrize("method", ["earlycrop-s", pytest.param("earlycrop-u", marks=pytest.mark.slow)])
def test_a_run_is_cut_and_stopped_and_resumed_ends_in_the_same_numbers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcrn, "_resnet", Narrow)
    scenes(tmp_path / "data")
    options = replace(NYU_OPTIONS, data=str(tmp_path / "data"), method=method, sparsity=0.6, rounds=2, trigger="2")

    uninterrupted, store = until(99, "nyu", options, tmp_path / "whole")
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            until(last, "nyu", options, tmp_path / "stopped")
    resumed, again = until(99, "nyu", options, tmp_path / "stopped")
    assert resumed.value == uninterrupted.value
    assert (resumed.pruned_epoch, resumed.metric, resumed.higher_is_better, resumed.split) == (2, "rmse", False, "val")
    assert resumed.weight_sparsity >= 0.6
    for a, b in zip(log_of(store), log_of(again), strict=True):
        assert (a["loss"], a["validation_rmse"]) == (b["loss"], b["validation_rmse"])


@pytest.mark.slow
def test_it_learns_what_tells_the_depth_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcrn, "_resnet", Narrow)
    scenes(tmp_path / "data")
    given = ["--encoder", "resnet18", "--no-pretrained", "--size", "32", "48", "--batch", "4", "--epochs", "12"]
    given += ["--learning-rate", "1e-2", "--validation", "0", "--scoring", "1", "--data", str(tmp_path / "data")]
    given += ["--runs", str(tmp_path / "runs"), "--record", "--scale", "1", "--colour", "0"]
    pruned = [*given, "--method", "earlycrop-s", "--sparsity", "0.5"]
    with pytest.warns(UserWarning, match=r"depths.png lacks dense predictions: .*runs has no dense run"):
        alone = command_line.main("nyu", pruned)
    dense = command_line.main("nyu", [*given, "--method", "dense"])
    folder = {result.method: tmp_path / "runs" / result.run for result in (alone, dense)}
    errors = json.loads((folder["dense"] / "metrics.json").read_text())
    assert errors["val"]["rmse"] == dense.value
    assert dense.value < 0.8 * errors["val, by the training mean"]["rmse"]
    widths = {"alone": imread(folder["earlycrop-s"] / "depths.png").shape[1]}
    command_line.main("nyu", pruned)  # it is finished, and now there is a dense run beside it
    widths |= {name: imread(path / "depths.png").shape[1] for name, path in folder.items()}
    assert widths["dense"] == widths["alone"] < widths["earlycrop-s"]
    assert imread(folder["earlycrop-s"] / "depths.png").std() > 0.04
