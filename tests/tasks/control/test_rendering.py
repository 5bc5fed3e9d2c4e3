"""Animated pictures of a game."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from tasks.control import rendering
from tasks.runner import command_line
from tests.tasks.control.policies import TASKS, always, tiny
from tests.tasks.runs import folder

ONE_TASK = ["cartpole", *(pytest.param(name, marks=pytest.mark.slow) for name in TASKS[1:])]
TINY = [
    "--steps", "1500", "--epochs", "3", "--agents", "4", "--rollout", "16", "--widths", "16", "16",
    "--scoring-rollouts", "1", "--scoring-length", "32",
]  # fmt: skip


@pytest.mark.parametrize("name", ONE_TASK)
def test_a_picture_shows_a_game_at_its_speed_and_says_its_return(name: str, tmp_path: Path) -> None:
    action = 1 if name == "acrobot" else 0
    task = tiny(name)
    (path,) = task.record(always(name, action), tmp_path)
    single = gymnasium.make(task.dataset, render_mode="rgb_array")  # thrown-off particles are part of the world
    single.reset(seed=rendering.SEED)
    total, steps, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = single.step(action)
        total, over, steps = total + float(reward), terminated or truncated, steps + 1
    rate = single.metadata["render_fps"]
    single.close()
    with Image.open(path) as picture:
        assert picture.info["comment"].decode() == f"{task.dataset}, return {total:g}"
        assert picture.n_frames > 3
        shown = sum(_duration(picture, frame) for frame in range(picture.n_frames))
        first = np.asarray(picture.convert("RGB"))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 2
    assert shown / 1000 == pytest.approx(steps / rate, rel=0.25, abs=0.2)
    assert path.stat().st_size < 2_000_000


def _duration(picture: Image.Image, frame: int) -> int:
    picture.seek(frame)
    return int(picture.info["duration"])


@pytest.mark.parametrize("name", ONE_TASK)
def test_a_run_records_what_its_pruning_changed_and_draws_what_was_learned(name: str, tmp_path: Path) -> None:
    arguments = [*TINY, "--method", "snap", "--sparsity", "0.6", "--runs", str(tmp_path), "--record"]
    result = command_line.main(name, arguments)
    run = folder(tmp_path)
    event = json.loads((run / "log.jsonl").read_text().splitlines()[0])["event"]
    assert event["policy_moved"] > 0
    lowest = {"cartpole": 8, "acrobot": -500, "lunarlander": -2000}[name]
    highest = {"cartpole": 500, "acrobot": -60, "lunarlander": 300}[name]
    for value in (event["return_before"], event["return_after"], result.value):
        assert lowest <= value <= highest
    with Image.open(run / "episode.gif") as picture:
        assert (picture.format, picture.width) == ("GIF", rendering.WIDTH)
    assert not list(run.glob(".episode*"))
    network = {"acrobot": "mlp-16-16"}.get(name, "norm-mlp-16-16")  # acrobot's observations are not normalised
    assert result.network == tiny(name, widths=(16, 16)).network == network
