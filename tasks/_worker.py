"""A process that plays a part of the agents for another: what ``tasks._workers`` starts.

It knows numpy and Gymnasium, not torch, so that it is there in half a second, and ends with the pipe that it reads.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from mmap import mmap
from typing import IO, Any

import numpy as np
from threadpoolctl import threadpool_limits

from tasks._policy import Policy
from tasks._rollouts import Part, Steps, first_returns

LINE = 64
"""Bytes that arrays in shared memory start at a multiple of."""


def send(pipe: IO[bytes], memory: mmap, message: Any) -> None:
    """Write a message: arrays go through the shared memory, as far as it has room, and all else through the pipe."""
    pieces: list[tuple[int, int]] = []
    end = 0

    def leave(buffer: pickle.PickleBuffer) -> bool:
        """Whether it is to be pickled as anything else."""
        nonlocal end
        raw = buffer.raw()
        if end + raw.nbytes > len(memory):
            return True
        memory[end : end + raw.nbytes] = raw
        pieces.append((end, end + raw.nbytes))
        end += -(-raw.nbytes // LINE) * LINE
        return False

    pickle.dump((pickle.dumps(message, 5, buffer_callback=leave), pieces), pipe)
    pipe.flush()


def receive(pipe: IO[bytes], memory: mmap) -> Any:
    """Read a message; its arrays are those in the shared memory, good until the next message in either direction.

    Raises:
        EOFError: the other side is gone.
    """
    head, pieces = pickle.load(pipe)
    whole = memoryview(memory)
    return pickle.loads(head, buffers=[whole[start:end] for start, end in pieces])


class Stage:
    """What may be asked of the process."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}

    def open(self, key: int, *which: Any) -> None:
        """Take on the part of a player's agents that is called ``key`` from now on."""
        self.parts[key] = Part(*which)

    def play(self, key: int, policy: Policy, noise: np.ndarray) -> Steps:
        """Let that part play."""
        return self.parts[key].play(policy, noise)

    def close(self, keys: list[int]) -> None:
        """Leave off those parts, or those of them that there are: another process may have had them, and ended."""
        for key in keys:
            if key in self.parts:
                self.parts.pop(key).close()

    def first_returns(self, *which: Any) -> np.ndarray:
        """Play a part of an evaluation's games."""
        return first_returns(*which)


def main() -> None:
    """Answer (parts to leave off, method, arguments) with (whether it went well, what came of it), until none asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's to handle: this one ends with it
    threadpool_limits(1, "blas")
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with open(sys.argv[1], "r+b") as file:
        memory = mmap(file.fileno(), 0)
    stage = Stage()
    while True:
        try:
            left, method, arguments = receive(reader, memory)
            try:
                stage.close(left)
                answer = True, getattr(stage, method)(*arguments)
            except Exception:
                answer = False, traceback.format_exc()
            send(writer, memory, answer)
        except (EOFError, BrokenPipeError):
            os._exit(0)


if __name__ == "__main__":
    main()
