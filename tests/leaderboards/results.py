"""Results, records and folders of finished runs, as the leaderboards' tests take them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from leaderboards.records import Record
from tasks.runner.result import Result

DENSE = Result(
    run="d0", task="cartpole", dataset="CartPole-v0", preset="default", network="mlp-8-8", method="dense",
    structured=False, sparsity_of="weights", sparsity_asked=None, weight_sparsity=0.0, node_sparsity=0.0,
    metric="return", value=100.0, higher_is_better=True, split="100 episodes", epochs=3, pruned_epoch=None,
    pruned_why=None, seed=0, parameters=1000, macs=900, train_seconds=10.0, batch_ms=2.0, peak_memory_bytes=5000,
    disk_bytes=4000, csr_bytes=8000, device="cpu", python="3.11.9", torch="2.13.0", commit="0012345",
)  # fmt: skip
EARLY = replace(
    DENSE, run="e0", method="earlycrop-s", structured=True, sparsity_asked=0.9, weight_sparsity=0.9, node_sparsity=0.5,
    value=90.0, pruned_epoch=1, pruned_why="lazy, it says", parameters=100, macs=80,
)  # fmt: skip
ALL = [
    DENSE,
    replace(DENSE, run="d1", seed=1, value=110.0),
    EARLY,
    replace(EARLY, run="e1", seed=1, value=96.0, parameters=140, batch_ms=4.0, pruned_epoch=2),
    replace(EARLY, run="e2", seed=2, value=99.0, parameters=120, batch_ms=3.0, node_sparsity=0.8, pruned_epoch=3),
    replace(EARLY, run="s0", method="snip", structured=False, value=97.0, node_sparsity=0.0, pruned_epoch=0),
]


def write_run(runs: Path, result: Result, games: tuple[int, ...] = (10, 20, 30), **config: Any) -> Path:
    folder = runs / result.run
    folder.mkdir(parents=True, exist_ok=True)
    options = {"task": result.task, "method": result.method, "seed": result.seed, "runs": "/somewhere"} | config
    (folder / "config.json").write_text(json.dumps(options))
    log: list[dict[str, Any]] = [
        {"epoch": e, "loss": 1 / e, "games": n, "return": result.value - 10 / e} for e, n in enumerate(games, start=1)
    ]
    if result.pruned_epoch is not None:
        log = [{"epoch": 0}] * (result.pruned_epoch == 0) + log
        log[max(0, result.pruned_epoch - 1)]["event"] = event(result)
    log[-1]["parameters"] = result.parameters
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "result.json").write_text(result.to_json())
    return folder


def event(result: Result) -> dict[str, Any]:
    """What the log says of the pruning of a result, of 1,000 weights."""
    return {
        "reason": result.pruned_why, "epoch": result.pruned_epoch, "of": result.sparsity_of, "dense": 1000,
        "asked": result.sparsity_asked, "achieved": result.weight_sparsity,
        "left": round(1000 * (1 - result.weight_sparsity)), "weight_sparsity": result.weight_sparsity,
        "node_sparsity": result.node_sparsity,
    }  # fmt: skip


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def records(results: list[Result], **line: Any) -> list[Record]:
    log = [{"epoch": e, "loss": 1 / e, **{key: e * value for key, value in line.items()}} for e in (1, 2, 3)]
    return [Record(config={}, result=result, log=log, finished="2026-01-01") for result in results]
