"""A sweep's runs on the machines of a Ray cluster, each a Ray task in a process of its own.

What a run keeps comes home through Ray after every epoch, into the sweep's folder of runs: no folder need be shared,
and where a worker or a machine dies, another one goes on from the last epoch that came.
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
from leaderboards.sweep import CHECKOUT, Work, run_id, taken_in
from tasks.runner import command_line, process_settings
from tasks.runner.errors import first_line
from tasks.runner.outcome import COMMIT_VARIABLE, commit
from tasks.runner.store import Store, checkpoint

EXCLUDED = ["/.git", "/.venv", "/runs", "/data", "/docs", "/tests", "/leaderboards/records", "*.png", "*.svg"]
"""What of the checkout is not sent to the cluster's machines: no run reads it."""
LOST = 3
"""So often a run whose machine or worker died is started again, beside what may go wrong in the run itself."""


@contextlib.contextmanager
def connected(address: str, gpus: float) -> Iterator[Any]:
    """Ray, while it is connected to the cluster.

    address: of its head, host:port, or "auto" for the one that this machine is part of. gpus: how many GPUs a run
    takes, or which share of one.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address, the share of GPUs is none, or no machine
        has what a run takes.
    """
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
        raise ValueError(f"--gpus is a share of a GPU from 0 to 1, or a number of whole ones, and not {gpus:g}.")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ValueError("--where ray needs Ray, which is not installed: pip install 'earlycrop[ray]'.") from None
    _require_reachable(address)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=environment())
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"There is no Ray cluster at {address} ({first_line(error)}): start one with ray start."
        ) from None
    try:
        _require_room(ray, gpus)
        yield ray
    finally:
        ray.shutdown()


def environment() -> dict[str, Any]:
    """Return what each worker is given: this checkout's code, and the commit that it is of."""
    return {
        "working_dir": str(CHECKOUT),
        "excludes": EXCLUDED,
        "env_vars": {COMMIT_VARIABLE: commit()},
    }


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
    """A run's folder on a worker's machine, of which every checkpoint is sent home."""

    def __init__(self, runs: Path, config: dict[str, Any], send: Any) -> None:
        super().__init__(runs, config)
        self._send = send

    def save(self, model: Any, epoch: int, state: dict[str, Any], keep: Iterable[int] = ()) -> None:
        """Write it, and send it with the log."""
        super().save(model, epoch, state, keep)
        self._send([*top_level_files(self.folder), checkpoint(self.folder, epoch)], (epoch, *keep))


def work(run: Run, name: str, trunk: str | None, home: Any, gpus: float, folder_of_sweep: str) -> tuple[int, str]:
    """Run it, on whatever machine this is, from where it has come to; the exit code and the last line that it said.

    A relative path in its arguments is one in the folder that the sweep was started in.
    """
    with contextlib.ExitStack() as stack:
        if Path(folder_of_sweep).is_dir():
            stack.enter_context(contextlib.chdir(folder_of_sweep))
        if not gpus:  # "auto" would take one that is another run's
            stack.enter_context(process_settings.environment(CUDA_VISIBLE_DEVICES=""))
        return _work(run, name, trunk, home)


def _work(run: Run, name: str, trunk: str | None, home: Any) -> tuple[int, str]:
    ray = importlib.import_module("ray")
    turn, files = ray.get(home.lend.remote(name))
    if not turn:
        return 2, f"another process is at work on {name}: wait for it"
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        unpack(files, folder)
        arguments = [*run.arguments, "--runs", place]
        if trunk is not None:
            epoch = int(arguments[arguments.index("--trigger") + 1])
            if kept_files := ray.get(home.kept.remote(trunk, epoch)):
                unpack(kept_files, Path(place) / trunk)
                arguments += ["--branch-from", str(Path(place) / trunk)]

        def send(paths: list[Path], keep: Iterable[int] | None) -> None:
            names = None if keep is None else tuple(checkpoint(folder, epoch).name for epoch in keep)
            ray.get(home.keep.remote(name, turn, pack(folder, paths), names))

        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                command_line.main(run.task, arguments, lambda runs, config: SendingStore(runs, config, send))
                code = 0
            except SystemExit as left:
                code = int(left.code or 0)
            except Exception:
                code = 1
                traceback.print_exc()
        if folder.is_dir():
            send(top_level_files(folder), None)
    return code, (said.getvalue().strip().splitlines() or [f"exit code {code}"])[-1]


def on_machines(ray: Any, gpus: float, jobs: int, runs: Path, out: Path) -> Work:
    """Runs on the cluster's machines, at most ``jobs`` at a time (0: as many as there is room for), ``gpus`` for each.

    A run that fails is tried once more, from its last checkpoint; one that fails again is told, and stops nothing.

    Raises:
        ValueError: jobs is below 0.
    """
    if jobs < 0:
        raise ValueError(f"jobs must be at least 0, and is {jobs}.")
    place = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    this_machine = place(ray.get_runtime_context().get_node_id(), soft=False)
    home = ray.remote(num_cpus=0, scheduling_strategy=this_machine)(RunStorage).remote(str(runs.resolve()))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=LOST)(work)

    def each(study: list[Run]) -> Generator[tuple[Run, str | None]]:
        waiting = [(run, 1) for run in reversed(study)]
        at_work: dict[Any, tuple[Run, int]] = {}
        try:
            while waiting or at_work:
                while waiting and (not jobs or len(at_work) < jobs):
                    run, attempt = waiting.pop()
                    if (runs / run_id(run) / "result.json").exists():
                        yield run, taken_in(run, runs, out)
                        continue
                    trunk = None if run.trunk is None else run_id(Run(run.task, run.trunk))
                    at_work[task.remote(run, run_id(run), trunk, home, gpus, os.getcwd())] = (run, attempt)
                for done in ray.wait(list(at_work))[0] if at_work else []:
                    run, attempt = at_work.pop(done)
                    code, said = _outcome(ray, done)
                    if code not in (0, 2) and attempt == 1:  # a wrong argument stays wrong
                        waiting.append((run, 2))
                        continue
                    ray.get(home.close.remote(run_id(run)))
                    yield run, said if code else taken_in(run, runs, out)
        finally:
            for left in at_work:
                ray.cancel(left, force=True)

    return each


def _outcome(ray: Any, done: Any) -> tuple[int, str]:
    """What a task returned, or why it could not."""
    try:
        code, said = ray.get(done)
    except ray.exceptions.RayError as error:  # its machines died, once more than it is started again
        return 2, first_line(error)
    return code, said
