"""One run on several processes, as torchrun starts them: all hold the same model, and each trains on its part of every
batch. The first one alone writes and speaks. Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
_until_left = ExitStack()
"""What is set while this process is joined with others."""


def processes() -> int:
    """How many train this run."""
    return _launched_with("WORLD_SIZE", 1)


def rank() -> int:
    """Which of them this one is, from 0."""
    return _launched_with("RANK", 0)


def local_processes() -> int:
    """How many of them share this machine."""
    return _launched_with("LOCAL_WORLD_SIZE", 1)


def _launched_with(name: str, alone: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def join(device: str) -> None:
    """Meet the other processes: over NCCL, each on the GPU of its number on this machine, or over gloo on the CPU.

    Raises:
        ValueError: the device is one of several, or there are fewer GPUs than processes.
    """
    if processes() == 1:
        return
    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"each process takes a GPU of its own, not all of them {device}: leave out --device")
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if 0 < gpus < local_processes():
        raise ValueError(
            f"{local_processes()} processes need as many GPUs, and there are {gpus}: lower --nproc-per-node"
        )
    if gpus:
        torch.cuda.set_device(_launched_with("LOCAL_RANK", 0))
    if rank():
        _until_left.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the first process tells
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")


def leave() -> None:
    """Part from the other processes."""
    _until_left.close()
    if processes() > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


def break_off(code: int) -> None:
    """End this process at once if it is one of several: at its end it would wait for what the others no longer send."""
    if processes() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def group() -> Any:
    """The process group; None for one process."""
    return distributed.group.WORLD if processes() > 1 else None


def local_slice(t: Tensor) -> Tensor:
    """This process's part of the first dimension: as much as any other's, so that a few of the last may be no one's."""
    each = len(t) // processes()
    return t[rank() * each : (rank() + 1) * each]


def local_slices(order: Tensor, batch: int) -> Tensor:
    """This process's parts of the batches of an order."""
    return torch.cat([local_slice(chosen) for chosen in torch.split(order, batch)])


def all_reduce(t: Tensor) -> Tensor:
    """The sum over the processes."""
    if processes() > 1:
        distributed.all_reduce(t)
    return t


def all_mean(t: Tensor) -> Tensor:
    """The mean over the processes."""
    return all_reduce(t) / processes()


def broadcast_from_rank0(value: T) -> T:
    """What the first process has."""
    if processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def all_gather(value: T) -> list[T]:
    """What each of the processes has."""
    if processes() == 1:
        return [value]
    values = [value] * processes()
    distributed.all_gather_object(values, value)
    return values


def all_equal(value: Any) -> bool:
    """Whether every process has the same value."""
    return all(each == value for each in all_gather(value))


def seed_process(seed: int, epoch: int) -> None:
    """Random numbers of a process's own, for dropout; the first one's go on as those of a run on one process."""
    if rank():
        torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank())).generate_state(1)[0]))


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first: its batch norms' running statistics."""
    if processes() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


class Replicas:
    """A model in DistributedDataParallel, which is wrapped again where the trained parameters are others than before.

    After a cut they are the same objects with other shapes.

    Batch norm takes the statistics of each process's part of the batch, as it does in every such training.
    """

    def __init__(self) -> None:
        self._trained: dict[nn.Parameter, torch.Size] = {}
        self._run: nn.Module | None = None

    def __call__(self, model: nn.Module) -> nn.Module:
        """What to train; the model itself where there is one process."""
        if processes() == 1:
            return model
        trained = {p: p.shape for p in model.parameters() if p.requires_grad}
        if self._run is None or trained != self._trained:
            self._run = None  # its memory, before another one takes some
            self._trained, self._run = trained, DistributedDataParallel(model)
        return self._run
