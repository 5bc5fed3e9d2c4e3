"""Sweeps on a Ray cluster of several nodes on this machine, of which one is killed in the middle of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from leaderboards import __main__ as command
from leaderboards import studies
from leaderboards.records import read_records
from leaderboards.run_storage import RunStorage, pack, unpack
from leaderboards.studies import Run

TINY = ("--steps", "300", "--epochs", "3", "--agents", "2", "--widths", "8", "8", "--scoring-rollouts", "1")
LONG = ("--steps", "24000", "--epochs", "8", "--agents", "2", "--widths", "8", "8", "--scoring-rollouts", "1")
TIMES = ("load", "threads", "seconds", "finished", "milliseconds", "_ms", "bytes", "of_macs_limit")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes of one."""
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default whatever else the machine does comes first
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
    yield cluster
    cluster.shutdown()


def sweep(place: Path, *more: str) -> int:
    return command.main(["sweep", "tiny", "--seeds", "1", "--runs", str(place / "runs"), "--out", str(place), *more])


def untimed(value: Any) -> Any:
    """Without what is measured and not computed."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not any(k.endswith(t) for t in TIMES)}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def kill_the_busy(cluster: Any) -> None:
    """SIGKILL to the node that has a run, and to the worker: a machine that loses its power."""
    for node in list(cluster.worker_nodes):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        workers = [p for p in raylet.children(recursive=True) if "ray::work" in " ".join(p.cmdline())]
        if workers:
            cluster.remove_node(node, allow_graceful=False)
            for worker in workers:
                if worker.is_running():
                    os.kill(worker.pid, signal.SIGKILL)
            return
    raise AssertionError("no node was at work")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_node_that_dies_costs_its_epoch(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The run goes on elsewhere from the last epoch; what cannot be run is reported; records equal a local sweep's."""
    long = Run("cartpole", (*LONG, "--method", "earlycrop-s", "--sparsity", "0.5"))
    dense = (*TINY, "--method", "dense", "--keep", "1")
    branch = Run("cartpole", (*TINY, "--method", "crop-s", "--sparsity", "0.5", "--trigger", "1"), dense)
    wrong = [Run("cartpole", (*TINY, "--discount", "2")), Run("cartpole", (*TINY, "--learning-rate", "1e30"))]
    study = [long, Run("cartpole", dense), branch, *wrong]
    monkeypatch.setitem(studies.STUDIES, "tiny", lambda seed: iter(study))
    kept: list[dict[str, Any]] = []

    def disaster() -> None:
        for _ in range(3000):
            for log in (tmp_path / "ray" / "runs").glob("*/log.jsonl"):
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                if len(lines) >= 4:
                    kept.extend(lines)
                    kill_the_busy(nodes)
                    return
            time.sleep(0.02)

    witness = threading.Thread(target=disaster)
    witness.start()
    code = sweep(tmp_path / "ray", "--where", "ray", "--address", nodes.address, "--jobs", "1")
    witness.join()
    output = " ".join(capsys.readouterr().out.split())
    assert "found: 0, new: 3, failed: 2" in output
    assert code == 1
    assert "--discount 2: error: discount must be 0 or more and at most 1, not 2.0" in output
    assert "training has diverged" in output
    assert len(kept) >= 4
    assert sweep(tmp_path / "local", "--jobs", "1") == 1
    remote, local = (read_records(tmp_path / where) for where in ("ray", "local"))
    assert remote.keys() == local.keys()
    for name in remote:
        assert untimed(dataclasses.asdict(remote[name])) == untimed(dataclasses.asdict(local[name]))
    (record,) = (r for r in remote.values() if r.result.method == "earlycrop-s")
    assert [line["seconds"] for line in record.log[: len(kept)]] == [line["seconds"] for line in kept], "not again"
    (branched,) = (r for r in remote.values() if r.result.method == "crop-s")
    assert any("branched_from" in line for line in branched.log)
    for folder in (tmp_path / "ray" / "runs").iterdir():
        with FileLock(folder / ".lock", timeout=0):
            """Nobody holds it any more."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_a_cluster_has_not_is_a_sentence(nodes: Any, tmp_path: Path, capsys: Any) -> None:
    place = ["--out", str(tmp_path), "--where", "ray", "--address", nodes.address]
    assert command.main(["sweep", "smoke", *place, "--gpus", "0.5"]) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert "A run would take 0.5 GPUs, and the most that a machine of the cluster has is 0: it would wait for" in output


@pytest.mark.parametrize(
    ("more", "output"),
    [
        (["--gpus", "-1"], "--gpus is a share of a GPU from 0 to 1, or a number of whole ones, and not -1."),
        (["--gpus", "1.5"], "or a number of whole ones, and not 1.5."),
        (
            ["--address", "ray://head:10001"],
            "--address is host:port of the cluster's head, or auto, and not ray://head",
        ),
        (["--address", "localhost"], "--address is host:port of the cluster's head, or auto, and not localhost."),
    ],
)
def test_what_cannot_be_asked_of_a_cluster_is_a_sentence(
    more: list[str], output: str, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    assert command.main(["sweep", "smoke", "--out", str(tmp_path), "--where", "ray", *more]) == 2
    assert output in " ".join(capsys.readouterr().err.split())


def test_no_cluster_at_the_address(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert command.main(["sweep", "smoke", "--out", str(tmp_path), "--where", "ray", "--address", address]) == 2
    assert f"There is no Ray cluster at {address}" in " ".join(capsys.readouterr().err.split())


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main(["sweep", "smoke", "--out", str(tmp_path), "--where", "ray"]) == 2
    assert "--where ray needs Ray, which is not installed: pip install 'earlycrop[ray]'." in capsys.readouterr().err


def test_a_run_is_one_worker_s(tmp_path: Path) -> None:
    """Who lost it to another worker brings nothing home any more; and no one is lent what another process holds."""
    home = RunStorage(str(tmp_path / "runs"))
    turn, files = home.lend("a")
    assert (turn, files) == (1, {})
    worker = tmp_path / "worker"
    unpack({"log.jsonl": b"1", "config.json": b"{}", "checkpoint/epoch-00001/state": b"one"}, worker)
    home.keep("a", turn, pack(worker, [worker]), ("epoch-00001",))
    assert home.lend("a") == (2, pack(worker, [worker]))
    with pytest.raises(ValueError, match="another worker has taken a over"):
        home.keep("a", turn, {"log.jsonl": b"2"}, None)
    assert (tmp_path / "runs" / "a" / "log.jsonl").read_bytes() == b"1"
    home.keep("a", 2, {"checkpoint/epoch-00002/state": b"two"}, ("epoch-00002",))
    assert [p.name for p in (tmp_path / "runs" / "a" / "checkpoint").iterdir()] == ["epoch-00002"]
    assert home.kept("a", 1) is None
    assert home.kept("a", 2) == {"config.json": b"{}", "checkpoint/epoch-00002/state": b"two"}
    assert RunStorage(str(tmp_path / "runs")).lend("a") == (0, {})
    home.close("a")
    assert RunStorage(str(tmp_path / "runs")).lend("a")[0] == 1
