"""Ask for the memory that scoring needs before it is needed: on a CPU, the system kills what takes too much."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from earlycrop.utils.copies import copy_module
from earlycrop.utils.devices import free_memory
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.errors import NotEnoughMemoryError, raise_if_out_of_memory
from earlycrop.utils.meta import MetaMode, meta_like
from earlycrop.utils.modules import collect_tensors, is_functorch_tensor, tensors_by_name
from earlycrop.utils.random_states import preserve_random_states

T = TypeVar("T")
Score = Callable[[nn.Module, Sequence[Any], ProcessGroup], object]
"""(model, batches, group) -> the scores, which are not looked at here."""

AMPLE = 8
"""No estimate is made where so many times the weights and the first graph fit, for it takes seconds. CroP takes up to 5
times as much; of a loss of several terms, more."""
ERROR = 1.2
"""By what an estimate may be wrong. What may fit is not refused."""
MAX_BATCHES = 8
"""How many batches an estimate runs. Few graphs are kept for the Hessian product where memory is short."""
aten: Any = torch.ops.aten
_log = logging.getLogger("earlycrop")


def call_measured(call: Callable[[], T]) -> tuple[T, int | None]:
    """Call a function.

    Args:
        call: A function that runs a network, with gradients.

    Returns:
        What it returns, and the bytes that its graph saves. These are None if a forward uses torch.func, which allows
        no measurement.
    """
    try:
        with saved_bytes() as sizes:
            result = call()
        return result, sum(sizes.values())
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return call(), None


@contextmanager
def saved_bytes() -> Iterator[dict[int, int]]:
    """Record the bytes of each storage that autograd saves within the context, by the storage's identity."""
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_nested or is_functorch_tensor(tensor):
            sizes[id(tensor)] = tensor.numel() * tensor.element_size()  # it has no storage of its own to ask
        else:
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        return tensor.detach()  # a node that held its own output would keep itself and the batch alive

    with saved_tensors_hooks(record, lambda tensor: tensor):
        yield sizes


def check_memory(score: Score, model: nn.Module, batches: Sequence[Any], graph_bytes: int) -> None:
    """Raise NotEnoughMemoryError if scoring surely needs more memory than is free.

    Args:
        score: What is about to be called.
        model: The network.
        batches: The batches to score on.
        graph_bytes: The bytes that the graph of the first batch's loss saves.
    """
    devices = {p.device for p in model.parameters()}
    free = free_memory(device := devices.pop()) if len(devices) == 1 else None
    weights = sum(t.nbytes for t in model.parameters())
    if free is None or AMPLE * (weights + graph_bytes) * min(len(batches), MAX_BATCHES) < free:
        return
    needed = estimate_memory(score, model, batches[:MAX_BATCHES])
    if needed is not None and needed > ERROR * free:
        raise NotEnoughMemoryError(
            f"scoring needs about {_in_gigabytes(needed)}, and {_in_gigabytes(free)} are free on {device}: take "
            "smaller batches to score on, or prune on a device with more memory"
        )


def estimate_memory(score: Score, model: nn.Module, batches: Sequence[Any]) -> int | None:
    """Estimate the peak of the memory that scoring allocates, from a run on shapes alone.

    What kernels allocate within is not counted, such as the weights in another order for convolutions on a CPU.

    Args:
        score: What computes the scores.
        model: The network, which is not changed.
        batches: The batches to score on.

    Returns:
        The number of bytes. None if the network or its loss does not run on shapes.
    """
    tensors = [*tensors_by_name(model).values(), *collect_tensors(batches)]
    try:
        memo = {id(t): meta_like(t) for t in tensors if t.is_floating_point() or t.is_complex()}
        network, shapes = copy_module(model, memo), copy.deepcopy(list(batches), dict(memo))
        mode = _AllocationMode(next(model.parameters()).device, list(memo.values()))
        with preserve_random_states(), mode:
            score(network, shapes, None)
    except Exception as error:  # whatever a forward raises
        raise_if_out_of_memory(error)
        _log.debug("memory is not estimated: %s", error)
        return None
    return mode.peak


class _AllocationMode(MetaMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all tensors that are alive, and their peak.

    A number that is read is taken to be one, so that checks for finite values pass.

    Args:
        device: The device that all meta tensors report.
        existing: Tensors that are not counted.
    """

    def __init__(self, device: torch.device, existing: Sequence[Tensor]) -> None:
        super().__init__(device)
        self.peak = self._live = 0
        storages = [t.untyped_storage() for t in existing]
        self._alive: dict[int, object] = {storage._cdata: storage for storage in storages}

    def run(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor]
    ) -> tuple[Any, list[Tensor]]:
        if func is aten._local_scalar_dense.default and inputs[0].is_meta:
            return torch.ones((), dtype=inputs[0].dtype, device="cpu").item(), []
        result, tensors = super().run(func, args, kwargs, inputs)
        for t in tensors:
            if t.is_meta:
                self._count(t.untyped_storage())
        # autograd sums gradients in place, but under a mode it makes new tensors
        if torch.is_grad_enabled() or func is not aten.add.Tensor:
            self.peak = max(self.peak, self._live)
        return result, tensors

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def free(_: object) -> None:
            self._live -= size
            del self._alive[key]

        self._live += size
        self._alive[key] = weakref.ref(storage, free)


def _in_gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
