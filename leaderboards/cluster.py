"""A sweep's runs on the machines of a Ray cluster, each a Ray task in a process of its own.

After every epoch Ray sends a run's files to the sweep's folder of runs. No folder need be shared, and if a worker or a
machine dies, another one resumes from the last epoch that was sent.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import socket
import tempfile
import traceback
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from leaderboards.run_storage import RunStorage, pack, top_level_files, unpack
from leaderboards.studies import Run
from leaderboards.sweep import CHECKOUT, Work, collect_run, run_id
from tasks.runner import command_line, machine
from tasks.runner.checkpoints import checkpoint
from tasks.runner.errors import first_line
from tasks.runner.outcome import COMMIT_VARIABLE, commit
from tasks.runner.store import Store

EXCLUDED = ["/.git", "/.venv", "/runs", "/data", "/docs", "/tests", "/leaderboards/records", "*.png", "*.svg"]
"""What of the checkout is not sent to the cluster's machines: no run reads it."""
LOST = 3
"""How often a run is started again because its machine or worker died."""


@contextlib.contextmanager
def connected(address: str, gpus: float) -> Iterator[Any]:
    """Yield Ray, connected to the cluster at ``address``, whose machines must have the ``gpus`` that a run takes.

    Raises:
        ValueError: Ray is not installed, there is no cluster, or no machine of it has what a run takes.
    """
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
        raise ValueError(f"--gpus is a share of a GPU from 0 to 1, or a number of whole ones, and not {gpus:g}.")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ValueError("--where ray needs Ray, which is not installed: pip install 'earlycrop[ray]'.") from None
    _require_reachable(address)
    try:
        code = {"working_dir": str(CHECKOUT), "excludes": EXCLUDED, "env_vars": {COMMIT_VARIABLE: commit()}}
        ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=code)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"There is no Ray cluster at {address} ({first_line(error)}): start one with ray start."
        ) from None
    try:
        _require_room(ray, gpus)
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself asks for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise ValueError(f"--address is host:port of the cluster's head, or auto, and not {address}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"There is no Ray cluster at {address} ({error}): start one with ray start.") from None


def _require_room(ray: Any, gpus: float) -> None:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    max_gpus = max((node.get("GPU", 0.0) for node in resources if node.get("CPU", 0) >= 1), default=None)
    if max_gpus is None:
        raise ValueError("No machine of the cluster has a CPU to give, and a run takes one: it would wait for ever.")
    if gpus > max_gpus:
        raise ValueError(
            f"A run would take {gpus:g} GPUs, and the most that a machine of the cluster has is {max_gpus:g}: it "
            "would wait for ever. Give a smaller --gpus."
        )


class SendingStore(Store):
    """A run's folder on a worker's machine, which sends every checkpoint to the sweep's."""

    def __init__(self, runs: Path, config: dict[str, Any], send: Any) -> None:
        super().__init__(runs, config)
        self._send = send

    def save(self, model: Any, epoch: int, state: dict[str, Any], keep: Iterable[int] = ()) -> None:
        """Write it, and send it with the log."""
        super().save(model, epoch, state, keep)
        self._send([*top_level_files(self.folder), checkpoint(self.folder, epoch)], (epoch, *keep))


def work(run: Run, storage: Any, gpus: float, sweep_folder: str) -> tuple[int, str]:
    """Carry out or resume a run on the machine that this is; return the exit code and the last line of the output.

    A relative path in its arguments is one in the folder that the sweep was started in.
    """
    ray, name, output, code = importlib.import_module("ray"), run_id(run), io.StringIO(), 0
    turn, files = ray.get(storage.lend.remote(name))
    if not turn:
        return 2, f"another process is at work on {name}: wait for it"
    with contextlib.ExitStack() as stack:
        if Path(sweep_folder).is_dir():
            stack.enter_context(contextlib.chdir(sweep_folder))
        if not gpus:  # "auto" would take one that is another run's
            stack.enter_context(machine.environment(CUDA_VISIBLE_DEVICES=""))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = place / name
        unpack(files, folder)
        arguments = [*run.arguments, "--runs", str(place)]
        if run.trunk is not None:
            trunk, epoch = run.branch()
            if trunk_files := ray.get(storage.kept.remote(run_id(trunk), epoch)):
                unpack(trunk_files, place / run_id(trunk))
                arguments += ["--branch-from", str(place / run_id(trunk))]

        def send(paths: list[Path], keep: Iterable[int] | None) -> None:
            names = None if keep is None else tuple(checkpoint(folder, epoch).name for epoch in keep)
            ray.get(storage.keep.remote(name, turn, pack(folder, paths), names))

        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                command_line.main(run.task, arguments, lambda runs, config: SendingStore(runs, config, send))
            except SystemExit as exit_request:
                code = int(exit_request.code or 0)
            except Exception:
                code = 1
                traceback.print_exc()
        if folder.is_dir():
            send(top_level_files(folder), None)
    return code, (output.getvalue().strip().splitlines() or [f"exit code {code}"])[-1]


def on_machines(ray: Any, gpus: float, jobs: int, runs: Path, out: Path) -> Work:
    """Return what carries runs out on a cluster, ``jobs`` at a time (0: as many as fit), with ``gpus`` for each."""
    place = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    this_machine = place(ray.get_runtime_context().get_node_id(), soft=False)
    storage = ray.remote(num_cpus=0, scheduling_strategy=this_machine)(RunStorage).remote(str(runs.resolve()))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=LOST)(work)

    def each(study: list[Run]) -> Generator[tuple[Run, str | None]]:
        waiting = [(run, 1) for run in reversed(study)]
        running: dict[Any, tuple[Run, int]] = {}
        try:
            while waiting or running:
                while waiting and (not jobs or len(running) < jobs):
                    run, attempt = waiting.pop()
                    if (runs / run_id(run) / "result.json").exists():
                        yield run, collect_run(run, runs, out)
                        continue
                    running[task.remote(run, storage, gpus, os.getcwd())] = (run, attempt)
                for done in ray.wait(list(running))[0] if running else []:
                    run, attempt = running.pop(done)
                    try:
                        code, last_line = ray.get(done)
                    except ray.exceptions.RayError as error:  # its machines died, once more than it is started again
                        code, last_line = 2, first_line(error)
                    if code not in (0, 2) and attempt == 1:  # once more; a wrong argument stays wrong
                        waiting.append((run, 2))
                        continue
                    ray.get(storage.close.remote(run_id(run)))
                    yield run, last_line if code else collect_run(run, runs, out)
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)

    return each
