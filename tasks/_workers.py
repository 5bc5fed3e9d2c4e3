"""Processes that play a part of the agents each, whole rollouts at a time, while this one plays another part.

Weights, noise and what was lived through go through memory that both see; a pipe carries little more than the call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from mmap import mmap
from typing import IO, Any, NoReturn

from tasks._worker import receive, send
from tasks.runner.errors import LostError, RunError

MEMORY = 2**22
"""Bytes of shared memory for a process. What does not fit goes through the pipe, which is slower."""


class Worker:
    """A process, started when it is first asked for something; it ends with this object, or with this process.

    One thing can be asked at a time. An answer's arrays are good until the next question.
    """

    def __init__(self) -> None:
        self.left: list[int] = []
        """Parts that the process need not keep."""
        self.process: subprocess.Popen[bytes] | None = None
        self.waiting = False

    def ask(self, method: str, *arguments: Any) -> None:
        """Have ``tasks._worker.Stage`` do something.

        Raises:
            LostError: the process is gone, or cannot be started.
        """
        if self.process is None:
            self._start()
        if self.waiting:  # who asked was interrupted
            self._receive()
        message, self.left = (self.left, method, arguments), []
        try:
            send(self.questions, self.memory, message)
        except BrokenPipeError:
            self._gone()
        except BaseException:  # half a message may be under way
            self.close()
            raise
        self.waiting = True

    def answer(self) -> Any:
        """What came of it.

        Raises:
            RunError: it failed. LostError: the process is gone.
        """
        well, value = self._receive()
        if not well:
            raise RunError(f"a worker process failed:\n{value}")
        return value

    def close(self) -> None:
        """End the process; another is started when something is asked again."""
        if self.process is not None:
            self._end()
        self.process, self.left, self.waiting = None, [], False

    def _start(self) -> None:
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        modules = os.pathsep.join(each or os.getcwd() for each in sys.path)
        with tempfile.NamedTemporaryFile(prefix="earlycrop-", dir=folder, delete=False) as file:
            try:
                if hasattr(os, "posix_fallocate"):  # where there is no room, an error now and not a signal later
                    os.posix_fallocate(file.fileno(), 0, MEMORY)
                file.truncate(MEMORY)
                self.memory = mmap(file.fileno(), MEMORY)
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tasks._worker", file.name],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": modules},
                )  # fmt: skip
            except OSError as error:
                _remove(file.name)
                raise LostError(f"a worker process cannot be started ({error}): --workers 1 needs none") from None
        self.file: str | None = file.name
        self.questions, self.answers = _pipes(self.process)
        self._end = weakref.finalize(self, _end, self.process, file.name)

    def _receive(self) -> Any:
        try:
            received = receive(self.answers, self.memory)
        except EOFError:
            self._gone()
        except BaseException:
            self.close()
            raise
        self.waiting = False
        if self.file is not None:  # both have it mapped by now, and no end can leave it behind
            _remove(self.file)
            self.file = None
        return received

    def _gone(self) -> NoReturn:
        code = None if self.process is None else self.process.wait()
        self.close()
        raise LostError(
            f"a worker process is gone (exit code {code}; a negative one is the signal that ended it): "
            "the same command goes on from the last checkpoint"
        )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[bytes], file: str) -> None:
    process.kill()  # it holds nothing that is needed
    process.wait()
    for pipe in _pipes(process):
        with suppress(OSError):  # the rest of a question
            pipe.close()
    _remove(file)


def _remove(file: str) -> None:
    with suppress(OSError):  # it is gone, or Windows keeps what is mapped
        os.unlink(file)
