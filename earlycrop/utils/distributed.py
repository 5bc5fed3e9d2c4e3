"""Several processes that train one model: what they average, and what they must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, distributed

ProcessGroup: TypeAlias = Any
"""A torch.distributed.ProcessGroup (which torch has only where it was built with it) of at least two processes; None
for a process that trains alone.
"""


def all_reduce_mean(tensors: Mapping[str, Tensor], group: ProcessGroup) -> dict[str, Tensor]:
    """The mean over the processes of each tensor, in its place. Their gradients, so averaged, are those of the mean of
    their losses, which is what DistributedDataParallel trains on.
    """
    if group is not None:
        for t in tensors.values():
            whole = t.contiguous()  # the kernels of convolutions may lie otherwise
            distributed.all_reduce(whole, group=group)
            t.copy_(whole.div_(group.size()))
    return dict(tensors)


def broadcast_from_rank0(t: Tensor, group: ProcessGroup) -> Tensor:
    """The first process's ``t``: of what is drawn at random there must be one."""
    if group is None:
        return t
    if t.device.type != "cpu":
        distributed.broadcast(t, group=group, group_src=0)
        return t
    held = [t]
    distributed.broadcast_object_list(held, group=group, group_src=0)  # NCCL takes no tensor of the CPU
    return held[0]


def all_reduce_max(time: int, group: ProcessGroup) -> int:
    """The largest of the times that the processes have measured: they must choose alike, and wait for the slowest in
    any case.
    """
    return int(max(_all_gather(time, group)))


def check_same_removal(removed: Iterable[npt.ArrayLike], group: ProcessGroup) -> None:
    """Raise ValueError where the processes are about to remove different things. All of them must call this."""
    packed = b"" if group is None else b"".join(np.packbits(np.asarray(r)).tobytes() for r in removed)
    if len(set(_all_gather(sha256(packed).hexdigest(), group))) > 1:
        raise ValueError(
            "the processes chose to remove different nodes or weights: see that they hold the same weights and masks, "
            "and that each gives as many batches to score on"
        )


def check_same_value(told: str | None, group: ProcessGroup, what: str) -> None:
    """Raise ValueError where the processes' sentences on ``what`` differ. All of them must call this."""
    every = _all_gather(told, group)
    if len(set(every)) > 1:
        listed = "; ".join(f"process {i}: {each or 'nothing'}" for i, each in enumerate(every))
        raise ValueError(f"the processes that train this model disagree on {what}: {listed}")


@contextmanager
def fail_together(group: ProcessGroup, kind: type[Exception] = ValueError) -> Iterator[None]:
    """What fails here in one of the processes fails in all of them, which would else wait for that one for ever, or go
    on without it. All of them must come here, and nothing inside may wait for the others.

    Raises:
        Exception: what was raised inside. In a process where nothing was: ``kind`` where another has raised that, else
        ValueError; it tells of that one.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        if group is None:
            raise
        failed = error
    every = _all_gather(None if failed is None else (f"{failed}", isinstance(failed, kind)), group)
    if failed is not None:
        raise failed
    for i, told in enumerate(every):
        if told is not None:
            raise (kind if told[1] else ValueError)(f"process {i}, which trains this model too, has failed: {told[0]}")


def merge_across_processes(told: Mapping[Any, str], group: ProcessGroup) -> dict[Any, str]:
    """What any of the processes tells; of several on the same, the first. All of them must call this."""
    return {key: each for found in reversed(_all_gather(dict(told), group)) for key, each in found.items()}


def _all_gather(value: Any, group: ProcessGroup) -> list[Any]:
    """What each process has told."""
    if group is None:
        return [value]
    every: list[Any] = [None] * group.size()
    distributed.all_gather_object(every, value, group)
    return every
