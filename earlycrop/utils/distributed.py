"""Averages and agreement over the processes that train one model with ``DistributedDataParallel``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, distributed

ProcessGroup: TypeAlias = Any
"""A ``torch.distributed.ProcessGroup`` of at least two processes, or None for a process that trains alone.

It is Any, because torch may be built without ``torch.distributed``.
"""


def all_reduce_mean(tensors: Mapping[str, Tensor], group: ProcessGroup) -> dict[str, Tensor]:
    """Average each tensor over the processes, in place.

    The mean of the processes' gradients is the gradient of their mean loss, which DistributedDataParallel trains on.

    Args:
        tensors: Name -> tensor, of the same shapes in all processes.
        group: The processes. With None nothing changes.

    Returns:
        The same tensors.
    """
    if group is not None:
        for t in tensors.values():
            contiguous = t.contiguous()  # gradients of convolutions may have other strides
            distributed.all_reduce(contiguous, group=group)
            t.copy_(contiguous.div_(group.size()))
    return dict(tensors)


def broadcast_from_rank0(t: Tensor, group: ProcessGroup) -> Tensor:
    """Return the tensor of the first process, so that all processes use the same random numbers.

    Args:
        t: This process's tensor. On a device other than the CPU it is overwritten.
        group: The processes. With None, ``t`` is returned.

    Returns:
        The first process's ``t``.
    """
    if group is None:
        return t
    if t.device.type != "cpu":
        distributed.broadcast(t, group=group, group_src=0)
        return t
    objects = [t]
    distributed.broadcast_object_list(objects, group=group, group_src=0)  # NCCL cannot send tensors on the CPU
    return objects[0]


def all_reduce_max(time: int, group: ProcessGroup) -> int:
    """Return the largest measured time of the processes.

    All processes must choose alike, and they wait for the slowest in every step.

    Args:
        time: This process's measurement.
        group: The processes.

    Returns:
        The maximum over the processes.
    """
    return int(max(_all_gather(time, group)))


def check_same_removal(removed: Iterable[npt.ArrayLike], group: ProcessGroup) -> None:
    """Check that all processes are about to remove the same nodes or weights. All processes must call this.

    Args:
        removed: Boolean arrays, true where something is removed.
        group: The processes.

    Raises:
        ValueError: The processes' arrays differ.
    """
    packed = b"" if group is None else b"".join(np.packbits(np.asarray(r)).tobytes() for r in removed)
    if len(set(_all_gather(sha256(packed).hexdigest(), group))) > 1:
        raise ValueError(
            "the processes chose to remove different nodes or weights: make sure that they hold the same weights and "
            "masks, and that each gives as many batches to score on"
        )


def check_same_value(value: str | None, group: ProcessGroup, subject: str) -> None:
    """Check that all processes pass the same value. All processes must call this.

    Args:
        value: This process's value.
        group: The processes.
        subject: What the value decides, for the error message.

    Raises:
        ValueError: The values differ.
    """
    values = _all_gather(value, group)
    if len(set(values)) > 1:
        listed = "; ".join(f"process {rank}: {v or 'nothing'}" for rank, v in enumerate(values))
        raise ValueError(f"the processes that train this model disagree on {subject}: {listed}")


@contextmanager
def fail_together(group: ProcessGroup, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Raise in all processes what one of them raises inside the context.

    Without this the others would wait for that process forever, or continue without it. All processes must enter the
    context, and nothing inside may communicate between processes.

    Args:
        group: The processes.
        kind: An error class that is raised as such in the other processes. Other errors become ValueError there.

    Raises:
        Exception: The error that was raised inside, in the process that raised it. In the others, ``kind`` or
            ValueError with its message.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if group is None:
            raise
        failure = error
    failures = _all_gather(None if failure is None else (f"{failure}", isinstance(failure, kind)), group)
    if failure is not None:
        raise failure
    for rank, other in enumerate(failures):
        if other is not None:
            message, is_kind = other
            error_class = kind if is_kind else ValueError
            raise error_class(f"process {rank}, which trains this model too, has failed: {message}")


def merge_across_processes(messages: Mapping[Any, str], group: ProcessGroup) -> dict[Any, str]:
    """Merge the messages of all processes. All processes must call this.

    Args:
        messages: This process's messages, by any key.
        group: The processes.

    Returns:
        The messages of all processes. For a key that several use, the message of the first of them.
    """
    by_rank = reversed(_all_gather(dict(messages), group))
    return {key: message for process_messages in by_rank for key, message in process_messages.items()}


def _all_gather(value: Any, group: ProcessGroup) -> list[Any]:
    """Return each process's value, in the order of their ranks."""
    if group is None:
        return [value]
    values: list[Any] = [None] * group.size()
    distributed.all_gather_object(values, value, group)
    return values
