"""The folder of runs of a sweep whose workers are on other machines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.runner.checkpoints import checkpoint, checkpoints

Files = dict[str, bytes]
"""Path within a run's folder -> what the file holds."""


class RunStorage:
    """The folder of runs on the machine that sweeps. A run belongs to one worker at a time, the last that asked."""

    def __init__(self, runs: str) -> None:
        self.runs = Path(runs)
        self._locks: dict[str, FileLock] = {}
        self._turns: dict[str, int] = {}

    def lend(self, run: str) -> tuple[int, Files]:
        """Return a turn at the run, 0 if another process has it, and its configuration, log and last checkpoint."""
        folder = self.runs / run
        folder.mkdir(parents=True, exist_ok=True)
        if run not in self._locks:
            lock = FileLock(folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return 0, {}
            self._locks[run] = lock
        self._turns[run] = self._turns.get(run, 0) + 1
        last = [path for _, path in sorted(checkpoints(folder).items())[-1:]]
        return self._turns[run], pack(folder, [*top_level_files(folder), *last])

    def keep(self, run: str, turn: int, files: Files, keep: tuple[str, ...] | None) -> None:
        """Store a worker's files, unless another one has the run; of checkpoints ``keep`` those named, or all."""
        if self._turns.get(run) != turn:
            raise ValueError(f"another worker has taken {run} over")
        folder = self.runs / run
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as place:
            unpack(files, Path(place))
            for new in Path(place).glob("checkpoint/epoch-*"):
                (folder / "checkpoint").mkdir(exist_ok=True)
                shutil.rmtree(folder / "checkpoint" / new.name, ignore_errors=True)
                new.rename(folder / "checkpoint" / new.name)
            for new in top_level_files(Path(place)):
                new.replace(folder / new.name)
        if (folder / "result.json").exists():
            (folder / "failure.json").unlink(missing_ok=True)
        for old in checkpoints(folder).values():
            if keep is not None and old.name not in keep:
                shutil.rmtree(old)

    def kept(self, run: str, epoch: int) -> Files | None:
        """Return a dense run's configuration and its checkpoint of that epoch, or None."""
        folder = self.runs / run
        path = checkpoint(folder, epoch)
        return pack(folder, [folder / "config.json", path]) if path.is_dir() else None

    def close(self, run: str) -> None:
        """Release the run: nobody is at work on it."""
        if run in self._locks:
            self._locks.pop(run).release()


def top_level_files(folder: Path) -> list[Path]:
    """Return the files that lie in the run's folder itself."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def pack(folder: Path, paths: Iterable[Path]) -> Files:
    """Read files, and those in folders, by their path within ``folder``."""
    every = [q for p in paths for q in ([p] if p.is_file() else sorted(p.rglob("*"))) if q.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def unpack(files: Files, folder: Path) -> None:
    """Write files into ``folder``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
