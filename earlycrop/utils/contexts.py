"""Context managers that change or protect the state of a module or of torch, and restore it on exit."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from earlycrop.utils.modules import NORMS, assign_tensor, tensor_owners, tensors_by_name

_CONTAINERS = (list, dict, OrderedDict, set)


@contextmanager
def replace_tensors(module: nn.Module, new: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace parameters and buffers within the context.

    Args:
        module: The module that holds the tensors.
        new: Name -> replacement. A tied tensor is replaced everywhere.
    """
    old = tensors_by_name(module)
    owners = tensor_owners(module)
    places = {name: owners[id(old[name])] for name in new}
    with ExitStack() as stack:
        for name, tensor in new.items():
            stack.callback(assign_tensor, places[name], old[name])
            assign_tensor(places[name], tensor)
        yield


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave inference mode within the context. A tensor that is created in inference mode can never be trained."""
    grad_enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad_enabled):  # inference_mode(False) enables gradients
        yield


@contextmanager
def preserve_python_random_states() -> Iterator[None]:
    """Restore the random states of NumPy and Python on exit."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Restore training modes, buffers and the random states of torch, NumPy and Python on exit.

    Args:
        module: The module that is restored, with its submodules.
    """
    with preserve_python_random_states():
        modules = list(module.modules())
        modes = [(m, m.training) for m in modules]
        # A forward pass may write to a buffer or replace it, so keep both the object and its values.
        buffers = [(m._buffers, dict(m._buffers)) for m in modules]
        values = [(b, b.detach().clone()) for _, saved in buffers for b in saved.values() if b is not None]
        tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
        devices = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            for m, training in modes:
                m.training = training
            for current, saved in buffers:
                current.update(saved)
            with torch.no_grad():
                for buffer, old_values in values:
                    # An expanded buffer cannot be written to, nor has it changed. Sparse ones cannot be compared.
                    is_dense = buffer.layout == torch.strided
                    if not (buffer.is_meta or (is_dense and torch.equal(buffer, old_values))):
                        buffer.copy_(old_values)


@contextmanager
def preserve_attributes(module: nn.Module) -> Iterator[None]:
    """Restore plain attributes and the contents of their lists, dicts and sets on exit.

    A forward pass may store a state or an activation in an attribute, or register hooks and set a flag that it has.
    Parameters must be the same objects on entry and exit, because an LSTM keeps a list of them.

    Args:
        module: The module that is restored, with its submodules.
    """
    attributes = [(m, dict(vars(m))) for m in module.modules()]
    containers = [(v, type(v)(v)) for _, saved in attributes for v in saved.values() if type(v) in _CONTAINERS]
    try:
        yield
    finally:
        for m, saved in attributes:
            for name in vars(m).keys() - saved.keys():
                del vars(m)[name]
            vars(m).update(saved)
        for container, contents in containers:
            if isinstance(container, list):
                container[:] = contents
            else:
                container.clear()
                container.update(contents)


def set_scoring_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Switch ``module`` to evaluation mode for scoring.

    Args:
        module: The module, changed in place.
        batch_statistics: Whether batch norms use the statistics of the batch instead of the running ones.
    """
    module.eval()
    if batch_statistics:
        for m in module.modules():
            if isinstance(m, NORMS):
                m.train()


@contextmanager
def differentiable_kernels(module: nn.Module) -> Iterator[None]:
    """Run operations in a form that has a second derivative and a simple trace.

    Fused attention, the RNNs of cuDNN and oneDNN, compiled graphs and the sparse gradients of embeddings have no double
    backward, so they are switched off. Autocast is off as well.

    Args:
        module: The module that will run in the context.
    """
    modules = list(module.modules())
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(m, nn.RNNBase) for m in modules):
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
            stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
            torch._C._set_mkldnn_enabled(False)
        for m in modules:
            if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse:
                stack.callback(setattr, m, "sparse", True)
                m.sparse = False
        if "torch._dynamo" in sys.modules:  # the import takes seconds; without it nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for device_type in {"cpu", *(t.device.type for t in tensors)} - {"meta"}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
